# make demo and make test need python3 >= 3.10, and network for the first install. The environment is .venv.
#   TENSORRT=rtx   TensorRT-RTX, the default without a GPU: builds and checks there too
#   TENSORRT=trt   TensorRT from PyPI, the default with a desktop or server GPU
#   TENSORRT=none  what is there; the default on a Jetson, whose torch and TensorRT are used as found

PYTHON ?= python3
VENV ?= .venv
JETSON := $(wildcard /etc/nv_tegra_release)
GPU := $(shell command -v nvidia-smi 2>/dev/null)
TENSORRT ?= $(if $(JETSON),none,$(if $(GPU),trt,rtx))

PY := $(VENV)/bin/python
CONSTRAINTS := constraints/torch-2.11.txt
INSTALLED := $(VENV)/.installed-$(TENSORRT)
EXTRA.rtx := dev,rtx
EXTRA.trt := dev,trt
EXTRA.none := dev
# Two TensorRTs in one environment: the one that was asked for answers.
MODULE.rtx := tensorrt_rtx
MODULE.trt := tensorrt
CHECK_PYTHON = $(PYTHON) -c 'import sys; sys.version_info < (3, 10) and sys.exit("torch2edge needs Python 3.10 or newer, $(PYTHON) is %d.%d; name another: make PYTHON=python3.11" % sys.version_info[:2])'
export TORCH2EDGE_TENSORRT ?= $(MODULE.$(TENSORRT))

.DEFAULT_GOAL := help
.PHONY: help demo test test-matrix slow zoo frontend gpu lint types clean

help:
	@echo "make demo    convert torchvision's ResNet-18 and print what happened and how exact it is"
	@echo "make test    the test suite; no GPU needed"
	@echo "make test-matrix  the suite, and the wheel beside torch, with torch 2.4, 2.11 and the newest: an hour, 20 GB"
	@echo "make slow    the tests that take minutes: torchvision's detectors, partitioned"
	@echo "make zoo     convert and check the models of torchvision, timm, transformers and torchaudio; takes an hour"
	@echo "make frontend  measure trace and lowering against the ONNX road"
	@echo "make gpu     the tests that need an NVIDIA GPU and a TensorRT that executes"
	@echo "make lint    ruff"
	@echo "make types   mypy --strict over the installed package"
	@echo "make clean   remove $(VENV), .venv-torch* and what was built"
	@echo
	@echo "TENSORRT=rtx (TensorRT-RTX, no GPU needed), trt (TensorRT from PyPI, with a GPU), none (what is there; a Jetson)."
	@echo "Here: TENSORRT=$(TENSORRT), $(if $(JETSON),a Jetson,$(if $(GPU),nvidia-smi found,no nvidia-smi)), environment $(VENV)."

demo: $(INSTALLED)
	$(PY) -m torch2edge convert --model torchvision:resnet18 --shape 1x3x224x224 --time -o resnet18.engine

test: $(INSTALLED)
	$(PY) -m pytest

# In environments of its own, .venv-torch*; it goes on where it was interrupted. Not a part of test or of CI.
test-matrix:
	$(if $(JETSON),$(error test-matrix installs torch from PyPI, which has none for a Jetson))
	@$(CHECK_PYTHON)
	$(PYTHON) benchmarks/torch_matrix.py --extras $(EXTRA.$(TENSORRT))

slow: $(INSTALLED)
	$(PY) -m pytest -m slow

zoo: $(VENV)/.installed-zoo
	$(PY) benchmarks/zoo.py

frontend: $(VENV)/.installed-zoo
	$(PY) benchmarks/frontend.py

gpu: $(INSTALLED)
	$(PY) -m pytest -m gpu

lint: $(INSTALLED)
	$(PY) -m ruff check .

types: $(INSTALLED)
	rm -rf build/typed build/lib  # setuptools would put what build/lib still holds into the package
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --target build/typed .
	MYPYPATH=build/typed $(PY) -m mypy -p torch2edge

$(VENV)/.installed-zoo: $(INSTALLED)
	$(PY) -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[zoo]'
	@touch $@

clean:
	rm -rf $(VENV) .venv-torch* resnet18.engine build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

$(PY):
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv $(if $(JETSON),--system-site-packages) $(VENV)

# On a Jetson nothing may replace JetPack's torch and TensorRT: dependencies are not resolved, only pytest is added.
$(INSTALLED): pyproject.toml setup.py constraints/common.txt $(CONSTRAINTS) | $(PY)
	$(if $(EXTRA.$(TENSORRT)),,$(error TENSORRT is $(TENSORRT); it must be rtx, trt or none))
ifneq ($(JETSON),)
	@$(PY) -c 'import torch' || { echo "Install NVIDIA's torch for this JetPack first; nothing from PyPI is put in its place."; exit 1; }
	$(PY) -m pip install --no-deps --editable .
	$(PY) -m pip install pytest ruff mypy 'setuptools>=70.1'
else
	@echo "installing into $(VENV): some minutes, some GB (torch with CUDA)"
	$(PY) -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[$(EXTRA.$(TENSORRT))]'
endif
	@touch $@
