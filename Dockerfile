# forgeteval with vLLM on NVIDIA GPUs:
#   docker build -t forgeteval .
#   docker run --rm --gpus all --ipc=host -v "$PWD:/study" forgeteval score checkpoints.yaml
# vLLM's image brings CUDA, torch and vLLM as built together; the tag is the version that the
# engine was written for and tested with (compiled for CPUs).
FROM vllm/vllm-openai:v0.32.0

SHELL ["/bin/bash", "-o", "pipefail", "-c"]

COPY pyproject.toml README.md LICENSE /opt/forgeteval/
COPY harness /opt/forgeteval/harness
COPY tasks /opt/forgeteval/tasks
# vLLM and torch are there already and must stay as they are: the [hf] extra adds what is missing.
RUN python3 -m pip freeze | grep -E '^(torch|torchvision|vllm)==' > /tmp/constraints.txt \
    && python3 -m pip install --no-cache-dir --constraint /tmp/constraints.txt '/opt/forgeteval[hf]' \
    && rm /tmp/constraints.txt

# Not as root: what a study writes belongs to an ordinary user.
RUN useradd --create-home --uid 1000 study
USER 1000
WORKDIR /study
ENV HF_HOME=/study/.cache/huggingface

ENTRYPOINT ["forgeteval"]
CMD ["doctor"]
