.DEFAULT_GOAL := help
.PHONY: help develop test lint format demo ci clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

develop:  ## editable install into the active environment (needs torch, setuptools, wheel and ninja there)
	pip install --no-build-isolation --no-deps -e .

test:  ## the whole test suite
	pytest

lint:  ## ruff
	ruff check .

format:  ## ruff, rewriting files
	ruff check --fix . && ruff format .

demo:  ## float -> quantized -> fine-tuned -> compiled, on real images
	python -m abcfx demo

ci:  ## what runs before a release
	bash .ci/run

clean:  ## build products
	rm -rf build dist abcfx.egg-info abcfx/_kernels.so abcfx_dump
