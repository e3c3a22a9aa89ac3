"""Answers heads that aiohttp cannot read."""

import logging

from aiohttp import web

from .answering import refusal

logger = logging.getLogger(__name__)


class RequestHandler(web.RequestHandler):
    """aiohttp's protocol, but a head that it cannot read is answered as everything else is."""

    __slots__ = ()

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        if status != 400 or request.writer.output_size:
            return super().handle_error(request, status, exc, message)
        logger.info("A request's head was malformed: %s", type(exc).__name__)
        return refusal("The request's head is malformed or too large.")
