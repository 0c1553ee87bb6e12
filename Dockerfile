# herder as an image: `herder` is its entry point, so that `worker`, `evacuate` and the others are arguments.
FROM python:3.13-slim

WORKDIR /usr/src/herder

COPY requirements.lock ./
RUN pip install --no-cache-dir --require-hashes --requirement requirements.lock

COPY pyproject.toml README.md LICENSE ./
COPY common common
COPY producer producer
COPY workers workers
RUN pip install --no-cache-dir --no-deps .

ENV PYTHONUNBUFFERED=1
ENTRYPOINT ["herder"]
