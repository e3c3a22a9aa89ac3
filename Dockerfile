# syntax=docker/dockerfile:1

# A ComfyUI in /comfyui with its Python in /opt/venv, and uv; docs/deployment.md says which are known.
ARG BASE=runpod/worker-comfyui:5.4.0-base

# The weight files, and nothing else of the repositories that hold them.
FROM python:3.13-slim AS weights
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN pip install --no-cache-dir 'huggingface_hub>=1.0,<3'
WORKDIR /download
COPY custom_nodes/comfyui_tryon/weights/__init__.py custom_nodes/comfyui_tryon/weights/files.py custom_nodes/comfyui_tryon/weights/exclusive.py custom_nodes/comfyui_tryon/weights/lock.py custom_nodes/comfyui_tryon/weights/download.py comfyui_tryon/weights/
# With models/tryon-weights.lock.json in the build context the files must have its commits and hashes. The other file is
# there because COPY needs at least one.
COPY extra_model_paths.yaml models/tryon-weights.lock.jso[n] /models/
# 0 leaves the weights out, for a network volume.
ARG WEIGHTS=1
# Which models, separated by commas: catvton, fashn. fashn-human-parser, which is not for commercial use, only if named.
ARG MODELS=catvton
# CatVTON's attention versions, separated by commas: mix, vitonhd, dresscode.
ARG ATTENTION=mix
# REPOSITORY@REVISION, separated by spaces; if empty, the commits of the lock file, or else each main branch.
ARG REVISIONS=
# Or a mirror.
ARG HF_ENDPOINT=https://huggingface.co
# hadolint ignore=SC2086
RUN --mount=type=secret,id=hf_token \
    rm /models/extra_model_paths.yaml \
    && if [ "$WEIGHTS" = 1 ]; then \
      HF_TOKEN_PATH=/run/secrets/hf_token python -m comfyui_tryon.weights.download --to /models --attention "$ATTENTION" "$MODELS" $REVISIONS; \
    fi


# hadolint ignore=DL3006
FROM $BASE
SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# RunPod probes both ports; one serves both.
ENV PORT=8000 PORT_HEALTH=8000
EXPOSE 8000

COPY --from=weights /models /comfyui/models/huggingface

# The constraints pin torch and the packages built against it; an install that needs another version fails.
# ComfyUI-Manager installs code for anyone who reaches the port, so it is removed.
COPY custom_nodes/comfyui_tryon/requirements.txt /tmp/requirements.txt
RUN uv pip freeze --python /opt/venv/bin/python | grep -E '^(torch|torchvision|torchaudio|triton|numpy|nvidia-[a-z0-9-]+)==' > /tmp/installed.txt \
    && uv pip install --python /opt/venv/bin/python --no-cache --compile-bytecode \
      --constraint /tmp/installed.txt --requirement /tmp/requirements.txt \
    && rm -rf /tmp/installed.txt /tmp/requirements.txt /comfyui/custom_nodes/ComfyUI-Manager \
    && python -m compileall -q /comfyui

COPY --chmod=755 start.sh extra_model_paths.yaml LICENSE* /tryon/
COPY --chmod=755 custom_nodes /tryon/custom_nodes
COPY --chmod=755 workflows /tryon/workflows

LABEL org.opencontainers.image.title="comfyui-tryon" \
      org.opencontainers.image.description="ComfyUI as a virtual try-on API: a person and a garment in, an image out, with CatVTON" \
      org.opencontainers.image.source="https://github.com/comfyui-tryon/comfyui-tryon" \
      org.opencontainers.image.licenses="GPL-3.0-or-later"

HEALTHCHECK --interval=10s --timeout=5s --start-period=10m --retries=3 \
  CMD ["/bin/bash", "-c", "wget --no-proxy --quiet --output-document=/dev/null http://127.0.0.1:$PORT_HEALTH/readyz"]

# Where ./start.sh, which messages name, is this one.
WORKDIR /tryon
ENTRYPOINT ["/tryon/start.sh"]
CMD []
