"""Language models that answer in words: a server that speaks OpenAI's protocol, or a model of transformers."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from http.client import HTTPException
from typing import Any
from urllib.request import Request, urlopen

from manyseg.errors import UserError

__all__ = ["chat_model"]

KEYS = ("MANYSEG_JUDGE_KEY", "OPENAI_API_KEY")
"""Environment variables of the key that a server asks for, the first that is set."""

TIMEOUT = 300.0
"""Seconds that a server has for an answer."""

WAITS = (2.0, 10.0)
"""Seconds before a request is made again that the server was too busy for."""

BUSY = {408, 429, 500, 502, 503, 504}
"""Status codes after which another attempt can succeed."""

TOKENS = 4000
"""Length of an answer, at most."""


def chat_model(where: str, name: str | None = None) -> Callable[[str, str], str]:
    """Return what takes a task and a question, and gives the answer of a language model, the likeliest one.

    `where` is the address of a server, such as `http://localhost:11434/v1`, whose model is `name`; or a model of
    transformers by its folder or its name on the hub. Raises UserError where it is not there or does not answer.
    """
    if where.startswith(("http://", "https://")):
        if not name:
            raise UserError(f"{where} may have several models; name the one to ask with --judge-model")
        return _Server(where, name)
    if name:
        raise UserError(f"--judge-model names a model of a server, and '{where}' is none; leave it out")
    return _Local(where)


def _messages(task: str, question: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": task}, {"role": "user", "content": question}]


class _Server:
    def __init__(self, url: str, name: str) -> None:
        self._url, self._name = url, name
        key = next((os.environ[k] for k in KEYS if os.environ.get(k)), None)
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})

    def __call__(self, task: str, question: str) -> str:
        body = {"model": self._name, "messages": _messages(task, question), "temperature": 0, "max_tokens": TOKENS}
        request = Request(f"{self._url.rstrip('/')}/chat/completions", json.dumps(body).encode(), self._headers)
        for wait in (*WAITS, None):
            try:
                with urlopen(request, timeout=TIMEOUT) as reply:
                    return str(json.load(reply)["choices"][0]["message"]["content"])
            except (OSError, HTTPException, ValueError, LookupError, TypeError) as e:
                if wait is None or getattr(e, "code", None) not in BUSY:
                    raise UserError(
                        f"{self._url} gave no answer: {type(e).__name__} {e}; is the address right, is it running, is "
                        f"'{self._name}' one of its models, is its key in {KEYS[0]}? What was answered before is kept"
                    ) from e
            time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")


class _Local:
    def __init__(self, where: str) -> None:
        from transformers import pipeline

        try:
            self._pipeline: Any = pipeline("text-generation", model=where, trust_remote_code=False)
        except (OSError, ValueError) as e:
            said = " ".join(str(e).split())[:200]
            raise UserError(f"'{where}' is no language model: {said}; give a folder, a hub name, or a URL") from e
        if not getattr(self._pipeline.tokenizer, "chat_template", None):
            raise UserError(f"'{where}' has no chat template; take a model that was made to follow instructions")

    def __call__(self, task: str, question: str) -> str:
        out = self._pipeline(_messages(task, question), max_new_tokens=TOKENS, do_sample=False, return_full_text=False)
        return str(out[0]["generated_text"])
