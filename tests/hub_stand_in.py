"""A small stand-in for the hub's API on the loopback: repositories in memory, whole files in commits."""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

from huggingface_hub import constants, utils

__all__ = ["TOKEN", "HubStandIn", "connected"]

TOKEN = "hf_token_of_a_writer"


@contextmanager
def connected(monkeypatch, tmp_path):
    """Yield a hub that this process talks to, and is logged in to."""
    stand_in = HubStandIn()
    with stand_in.running() as address:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", address)
        url = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
        # Versions before 1.0 keep a copy of it, and what they connect with.
        monkeypatch.setattr("huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", url, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        getattr(utils, "reset_sessions", lambda: None)()
        yield stand_in


class HubStandIn:
    """Repositories by name, each a mapping from paths to bytes; `requests` lists method and path of every request.

    `refused` has the status and the code with which a repository answers instead.

    Datasets are called `datasets/user/name`; revisions other than `main` have `@revision` after that.
    """

    def __init__(self):
        self.repositories, self.private, self.requests, self.refused = {}, set(), [], {}

    @contextmanager
    def running(self):
        """Serve on a free port of the loopback, and yield the address."""
        hub = self

        class Handler(_Handler):
            stand_in = hub

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        hub = self.stand_in
        hub.requests.append(("POST", self.path))
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, {"error": "Invalid credentials"})
        parts = self.path.strip("/").split("/")
        if parts == ["api", "validate-yaml"]:
            return self.answer(200, {"errors": [], "warnings": []})
        if parts == ["api", "repos", "create"]:
            asked = json.loads(content)
            name = "/".join(filter(None, (asked.get("organization") or "someone", asked["name"])))
            if name in hub.repositories:
                return self.answer(409, {"error": "exists", "url": self.url(name)})
            hub.repositories[name] = {}
            if asked.get("private") or asked.get("visibility") == "private":
                hub.private.add(name)
            return self.answer(200, {"url": self.url(name), "name": name})
        name, act = "/".join(parts[2:4]), parts[4]
        if act == "preupload":
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in json.loads(content)["files"]
            ]
            return self.answer(200, {"files": files})
        assert act == "commit"
        for line in content.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                hub.repositories[name][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        oid = self.commit(name)
        return self.answer(200, {"success": True, "commitUrl": f"{self.url(name)}/commit/{oid}", "commitOid": oid})

    def do_GET(self):
        hub = self.stand_in
        hub.requests.append((self.command, self.path))
        path = unquote(self.path.partition("?")[0]).strip("/")
        parts = path.split("/")
        kind = "datasets/" if "datasets" in parts[:2] else ""
        if kind:
            parts.remove("datasets")
            parts[:0] = [] if parts[0] != "api" else [parts.pop(0), "datasets"]
        name = kind + "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        if name in hub.refused:
            status, code = hub.refused[name]
            return self.answer(status, {"error": code}, X_Error_Code=code)
        if name not in hub.repositories:
            return self.answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        asked = "/".join(parts[5:] if parts[0] == "api" else parts[3:4])
        main = self.commit(name)
        others = {self.commit(n): n for n in hub.repositories if n.startswith(f"{name}@")}
        if f"{name}@{asked}" in hub.repositories or asked in others:
            name = others.get(asked, f"{name}@{asked}")
        elif asked not in ("", "main", main):
            return self.answer(404, {"error": "Revision not found"}, X_Error_Code="RevisionNotFound")
        files, oid = hub.repositories[name], self.commit(name)
        if parts[0] == "api" and "tree" in parts:
            tree = [{"type": "file", "path": p, "size": len(c), "oid": self.sum(c)} for p, c in files.items()]
            return self.answer(200, tree)
        if parts[0] == "api":
            return self.answer(200, {"id": name, "sha": oid, "siblings": [{"rfilename": p} for p in files]})
        assert parts[2] == "resolve"
        content = files.get("/".join(parts[4:]))
        if content is None:
            return self.answer(404, {"error": "no entry"}, X_Error_Code="EntryNotFound")
        headers = {"ETag": f'"{self.sum(content)}"', "X_Repo_Commit": oid, "Content_Length": str(len(content))}
        return self.answer(200, content, **headers)

    def do_HEAD(self):
        self.do_GET()

    def url(self, name):
        return f"http://{self.headers['Host']}/{name}"

    def commit(self, name):
        return hashlib.sha1(repr(sorted(self.stand_in.repositories[name].items())).encode()).hexdigest()

    @staticmethod
    def sum(content):
        return hashlib.sha1(content).hexdigest()
