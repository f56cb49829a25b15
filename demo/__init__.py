"""The voice demo: a page on this machine where one speaks to a model and hears it answer."""

from demo.app import build_app, launch

__all__ = ["build_app", "launch"]
