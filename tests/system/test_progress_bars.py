import io
import sys

from huggingface_hub.utils import are_progress_bars_disabled
from transformers.utils.logging import enable_progress_bar, is_progress_bar_enabled

from lejepa_hf.system.progress_bars import are_drawn, hidden_progress_bars, progress_bar
from lejepa_hf.system.quiet import quietly


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_bars_unless_they_are_hidden(monkeypatch):
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    assert are_drawn()
    assert list(progress_bar(range(3), desc="embedding")) == [0, 1, 2] and "embedding" in shown.getvalue()
    shown.seek(0)
    shown.truncate()
    with hidden_progress_bars(), hidden_progress_bars(False):  # the inner one does not bring them back
        assert not are_drawn()
        assert list(progress_bar(range(3), desc="embedding")) == [0, 1, 2]
    assert are_drawn() and shown.getvalue() == ""


def test_a_file_gets_a_line_a_minute(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    list(progress_bar(range(1000), desc="embedding"))
    assert shown.getvalue() == ""
    monkeypatch.setattr("lejepa_hf.system.progress_bars._MINUTE", 0.0)
    list(progress_bar(range(3), desc="embedding"))
    assert "embedding" in shown.getvalue()
    with hidden_progress_bars():
        before = shown.getvalue()
        list(progress_bar(range(3), desc="embedding"))
    assert shown.getvalue() == before


def test_libraries_hide_theirs_too_until_the_end():
    enable_progress_bar()  # a run in this process may have switched them off
    assert is_progress_bar_enabled() and not are_progress_bars_disabled()
    with hidden_progress_bars():
        with hidden_progress_bars():
            assert not is_progress_bar_enabled() and are_progress_bars_disabled()
        assert not is_progress_bar_enabled() and are_progress_bars_disabled()
    assert is_progress_bar_enabled() and not are_progress_bars_disabled()


def test_no_bars_where_it_is_quiet(monkeypatch):
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    with quietly():
        assert not are_drawn() and list(progress_bar(range(3))) == [0, 1, 2]
    assert shown.getvalue() == ""
