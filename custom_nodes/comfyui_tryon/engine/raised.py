"""Says what an exception is, and frees what it holds: a node's text may be huge, not encodable or impossible to get."""

import traceback

MAX_TEXT = 4000
MAX_NAME = 100


def bounded(text: str, limit: int = MAX_TEXT) -> str:
    """Returns `text` as UTF-8 can encode it, without its middle if it has more than `limit` characters."""
    if len(text) > limit:
        text = f"{text[: limit // 2]} ... {text[-limit // 2 :]}"
    return text.encode("utf-8", "backslashreplace").decode()


def type_name(error: BaseException) -> str:
    """Returns the name of the exception's class, MemoryError for all that are one."""
    return "MemoryError" if isinstance(error, MemoryError) else bounded(type(error).__name__, MAX_NAME)


def text_of(error: BaseException) -> str:
    """Returns the exception's text, bounded; says so if there is none to get."""
    try:
        return bounded(str(error))
    except BaseException as raised:  # its class may do anything
        return f"its text cannot be had, which raises {type_name(raised)}"


def trace_of(error: BaseException, limit: int = MAX_TEXT) -> str:
    """Returns the exception's traceback, bounded, for the log."""
    try:
        return bounded("".join(traceback.format_exception(type(error), error, error.__traceback__)), limit)
    except BaseException as raised:
        return f"{type_name(error)}, whose traceback cannot be had, which raises {type_name(raised)}"


def let_go(error: BaseException) -> None:
    """Frees what the functions in the traceback of `error`, and of what was raised before it, held in variables.

    ComfyUI keeps a traceback in a reference cycle until it next collects garbage, up to 10 s later. So long the tensors
    of a node that ran out of memory would fill the GPU: the next image fails, or cuDNN, short of workspace, chooses
    other convolutions, which round differently.
    """
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        traceback.clear_frames(following.__traceback__)
        following = following.__context__
