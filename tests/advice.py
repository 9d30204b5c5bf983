"""How tests follow advice: a call fails with a message, what it advises is done, and then the call works."""

import re

import pytest

from manyseg.errors import UserError


def follow(fails, said, works):
    """Check that a call ends in one line that says the advice `said`, and return what the call after it gives."""
    with pytest.raises(UserError) as caught:
        fails()
    message = str(caught.value)
    assert "\n" not in message
    assert re.search(said, message), message
    return works()
