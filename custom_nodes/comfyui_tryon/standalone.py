"""The API without ComfyUI: the embedded engine on an application of its own."""

import logging
import os
import sys

from aiohttp import web

from . import log
from .engine import install
from .engine.embedded import EmbeddedEngine
from .guard import end
from .nodes import NODE_CLASS_MAPPINGS
from .server import Server
from .settings import SettingsError, settings


def serve() -> None:
    log.begin(log.is_json())
    logging.basicConfig(level=logging.INFO)
    os.environ.setdefault("TRYON_LOCKED", "1")  # nothing else is here that the process could belong to
    app = web.Application()
    try:
        chosen = settings()
        Server(chosen, install(EmbeddedEngine(NODE_CLASS_MAPPINGS))).attach(app)
    except SettingsError as error:
        sys.exit(str(error))
    logging.info("No ComfyUI here: the embedded engine serves the same API, without the web page and other nodes.")
    hosts = chosen.listen.split(",")
    try:
        web.run_app(
            app, host=hosts, port=chosen.port, access_log=None, print=None, handle_signals=False, shutdown_timeout=1
        )
    except OSError as error:
        logging.error("Cannot start: %s. PORT and LISTEN say where to listen.", error.strerror or error)
        end(1)
    end(0)
