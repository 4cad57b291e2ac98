# Ringcorn: every way in. `make help` lists the targets.
#
#   PYTHON=python3.13   build for another Python: build/release-3.13/ringcorn     CC=clang   another compiler
#   PYTHON=python3-dbg  build for a debug Python, which counts references: build/debug-3.11d/ringcorn with VARIANT=debug
#   VARIANT=debug       as `make debug`: build/debug/ringcorn                     V=1        show the commands
#   PREFIX= DESTDIR=    where `make install` puts things                          WERROR=1   warnings are errors

VERSION := 0.1.0

PYTHON  ?= python3
VARIANT ?= release
PREFIX  ?= /usr/local
DESTDIR ?=
WERROR  ?= 0

ifeq ($(origin CC),default)
CC := gcc
endif
CLANG_FORMAT ?= clang-format
CLANG_TIDY   ?= clang-tidy

MAKEFLAGS += --no-builtin-rules
.SUFFIXES:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := all

Q := $(if $(V),,@)
say = $(if $(V),@:,@printf '  %-8s %s\n' '$(1)' '$(2)')

# ------------------------------------------------------------------ the Python to embed
# Asked once per run of make; `make help` and `make clean` do not need one.

ifneq ($(filter-out help clean,$(or $(MAKECMDGOALS),all)),)
PYFLAGS_FILE := $(shell mkdir -p build && mktemp build/.python.XXXXXX)
PY_ASKED := $(shell $(PYTHON) server/py/pyflags.py >$(PYFLAGS_FILE) 2>/dev/null && echo yes)
-include $(PYFLAGS_FILE)
$(shell rm -f $(PYFLAGS_FILE))
ifneq ($(PY_ASKED),yes)
PY_PROBLEM := $(PYTHON) does not run: apt-get install python3-dev python3-venv, or name another: make PYTHON=...
endif
endif
$(PYFLAGS_FILE): ;

# The default python3 has no tag; every other Python has folders of its own.
PYTAG := $(if $(filter python3,$(PYTHON)),,-$(PY_VERSION))
NAME  := $(VARIANT)$(PYTAG)
OBJ   := build/$(NAME)
OUT   := $(if $(filter release,$(NAME)),build,$(OBJ))

PROGRAM   := $(OUT)/ringcorn
PYDIR     := $(OUT)/python
EXTENSION := $(PYDIR)/_ringcorn$(PY_EXT_SUFFIX)

# ------------------------------------------------------------------ sources
# Ranks as in the README's map. What may not know Python is compiled without its include path.

PLAIN_FOLDERS  := base conf metrics io net ws http master ctl
PYTHON_FOLDERS := py transport sync aio wsgi asgi guard worker

sources = $(foreach folder,$(1),$(sort $(wildcard server/$(folder)/*.c)))
objects = $(patsubst %.c,$(OBJ)/%.o,$(1))

PLAIN_SOURCES     := $(call sources,$(PLAIN_FOLDERS))
PROGRAM_SOURCES   := $(filter-out server/io/sim.c,$(PLAIN_SOURCES)) $(call sources,$(PYTHON_FOLDERS)) \
                     $(wildcard server/main.c)
EXTENSION_SOURCES := $(filter-out server/io/sim.c server/py/embed.c, \
                     $(call sources,base conf metrics io net ws http py transport sync aio wsgi asgi guard))
PYTHON_FILES      := $(shell find python -name '*.py' -o -name '*.pyi' -o -name py.typed 2>/dev/null)
UNIT_SOURCES      := $(sort $(wildcard tests/unit/test_*.c))
UNIT_PROGRAMS     := $(patsubst tests/unit/%.c,$(OBJ)/unit/%,$(UNIT_SOURCES))
FUZZ_SOURCES      := $(sort $(wildcard tests/fuzz/fuzz_*.c))
FUZZ_REPLAYS      := $(patsubst tests/fuzz/%.c,$(OBJ)/fuzz/%,$(FUZZ_SOURCES))
C_FILES           := $(wildcard server/*.[ch] server/*/*.[ch] tests/unit/*.[ch] tests/fuzz/*.[ch] tests/tools/*.[ch])

# ------------------------------------------------------------------ libraries

PKG_CONFIG ?= pkg-config
PACKAGES   := liburing yaml-0.1 zlib openssl
have_pkg    = $(shell $(PKG_CONFIG) --exists $(1) 2>/dev/null && echo yes)

apt_of_liburing := liburing-dev
apt_of_yaml-0.1 := libyaml-dev
apt_of_zlib     := zlib1g-dev
apt_of_openssl  := libssl-dev

MISSING := $(strip $(if $(shell command -v $(PKG_CONFIG)),,pkg-config) \
             $(foreach p,$(PACKAGES),$(if $(call have_pkg,$(p)),,$(apt_of_$(p)))))
LIB_CFLAGS := $(if $(MISSING),,$(shell $(PKG_CONFIG) --cflags $(PACKAGES)))
LIB_LIBS   := $(if $(MISSING),,$(shell $(PKG_CONFIG) --libs $(PACKAGES)))

# llhttp: the library (Debian 13), or the generated C that node-llhttp installs (Debian 12).
LLHTTP_SHARE := /usr/share
ifeq ($(call have_pkg,libllhttp),yes)
LLHTTP_CFLAGS  := $(shell $(PKG_CONFIG) --cflags libllhttp)
LLHTTP_LIBS    := $(shell $(PKG_CONFIG) --libs libllhttp)
LLHTTP_OBJECTS :=
else
LLHTTP_SOURCES := $(wildcard $(LLHTTP_SHARE)/llhttp/*.c)
LLHTTP_CFLAGS  := -isystem $(LLHTTP_SHARE)/include/llhttp
LLHTTP_LIBS    :=
LLHTTP_OBJECTS := $(patsubst $(LLHTTP_SHARE)/llhttp/%.c,$(OBJ)/llhttp/%.o,$(LLHTTP_SOURCES))
# Debian 13 and later have the one, Debian 12 the other.
MISSING += $(if $(LLHTTP_SOURCES),,$(shell apt-cache show libllhttp-dev >/dev/null 2>&1 && echo libllhttp-dev || echo node-llhttp))
endif

# wslay comes without a .pc file.
MISSING += $(if $(shell echo '\#include <wslay/wslay.h>' | $(CC) $(CPPFLAGS) -E - >/dev/null 2>&1 && echo yes),,libwslay-dev)
WSLAY_LIBS := -lwslay

# ------------------------------------------------------------------ flags

cc_option = $(shell $(CC) -Werror $(1) -x c -c -o /dev/null /dev/null 2>/dev/null && echo '$(1)')

WARNINGS := -std=gnu17 -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wundef -Wformat=2 \
            -Wimplicit-fallthrough $(if $(filter 1,$(WERROR)),-Werror)
ALWAYS   := -g -fno-omit-frame-pointer -fno-strict-aliasing -fvisibility=hidden
# One set of objects serves the program (PIE) and the extension (shared): -fPIC code links into both, and the linker
# turns its indirections into direct references where a symbol is hidden.
ALWAYS   += -fPIC
HARDEN   := -fstack-protector-strong $(call cc_option,-fstack-clash-protection) $(call cc_option,-fcf-protection) \
            $(call cc_option,-ftrivial-auto-var-init=zero)
HARDEN_LD := -Wl,-z,relro,-z,now,-z,noexecstack

FLAGS_release  := -O2 -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3 $(HARDEN)
FLAGS_debug    := -Og -DRINGCORN_DEBUG $(HARDEN)
FLAGS_asan     := -O1 -DRINGCORN_DEBUG -fsanitize=address,undefined -fno-sanitize-recover=all
# gcc says that ThreadSanitizer does not know fences: ours are between atomics.
FLAGS_tsan     := -O1 -DRINGCORN_DEBUG -fsanitize=thread $(call cc_option,-Wno-tsan)
FLAGS_coverage := -O0 --coverage -fprofile-update=atomic
FLAGS_fuzz     := -O1 -DRINGCORN_DEBUG -fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=all
LD_asan        := -fsanitize=address,undefined
LD_tsan        := -fsanitize=thread
LD_coverage    := --coverage
LD_fuzz        := -fsanitize=address,undefined

ifeq ($(origin FLAGS_$(VARIANT)),undefined)
$(error VARIANT=$(VARIANT): there are release, debug, asan, tsan, coverage and fuzz)
endif

COMPILE := $(WARNINGS) $(ALWAYS) $(FLAGS_$(VARIANT)) -pthread $(CFLAGS)
# Neither library says in its headers, as far back as Debian 12, which version it is.
pkg_version = $(shell $(PKG_CONFIG) --modversion $(1) 2>/dev/null)
CPP     := -D_GNU_SOURCE -DRINGCORN_VERSION='"$(VERSION)"' \
           -DRINGCORN_LIBURING_VERSION='"$(call pkg_version,liburing)"' \
           -DRINGCORN_LIBYAML_VERSION='"$(call pkg_version,yaml-0.1)"' -Iserver $(LIB_CFLAGS) $(LLHTTP_CFLAGS) $(CPPFLAGS)
LINK    := $(HARDEN_LD) $(LD_$(VARIANT)) -pthread $(LDFLAGS)
LIBS    := $(LIB_LIBS) $(LLHTTP_LIBS) $(WSLAY_LIBS)

is_python    = $(filter $(PYTHON_FOLDERS),$(word 2,$(subst /, ,$(1))))
# Where the interpreter's home is concerns one file alone.
embed_cpp   := -DPY_HOME='"$(PY_HOME)"' -DPY_EXECUTABLE='"$(PY_EXECUTABLE)"'
source_cpp   = $(CPP) $(if $(call is_python,$(1)),$(PY_CFLAGS)) $(if $(filter server/py/embed.c,$(1)),$(embed_cpp))

# ------------------------------------------------------------------ what people type

.PHONY: all
all: program extension ## build the program and its Python package (build/ringcorn, build/python)

.PHONY: program extension python-package
program: $(PROGRAM) $(PROGRAM)ctl python-package
extension: $(EXTENSION) python-package

.PHONY: debug asan tsan
debug: ## build/debug/ringcorn: checks on, hardly optimised
	$(Q)$(MAKE) VARIANT=debug all
asan: ## build/asan/ringcorn: AddressSanitizer and UBSan (run it with PYTHONMALLOC=malloc)
	$(Q)$(MAKE) VARIANT=asan all
tsan: ## build/tsan/ringcorn: ThreadSanitizer
	$(Q)$(MAKE) VARIANT=tsan all

.PHONY: help
help: ## this list
	@sed -n '3,7s/^# //p' Makefile
	@echo
	@grep -hE '^[a-z][a-zA-Z_. -]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([^:]*):.*## (.*)/\1\t\2/' | \
	    awk -F'\t' '{ printf "  %-22s %s\n", $$1, $$2 }'

# ------------------------------------------------------------------ rules

# Before anything is compiled: what is missing, and the line that installs it.
.PHONY: needs
needs:
	$(if $(MISSING),$(info ringcorn: missing: $(MISSING))$(info ringcorn: apt-get install $(MISSING))$(error packages are missing))
	$(if $(PY_PROBLEM),$(error $(PY_PROBLEM)))
	$(if $(shell command -v $(CC)),,$(error $(CC) is not there: apt-get install gcc libc6-dev))
	@:

# A change of flags, compiler or Python rebuilds; the file is rewritten only when its text changes.
FLAGS_TEXT := $(CC) $(COMPILE) $(CPP) $(PY_CFLAGS) $(embed_cpp) $(LINK) $(LIBS) $(PY_LDFLAGS) $(PY_VERSION_FULL)
.PHONY: FORCE
$(OBJ)/flags: FORCE | needs
	@mkdir -p $(@D)
	@printf '%s\n' '$(subst ','\'',$(FLAGS_TEXT))' | cmp -s - $@ || printf '%s\n' '$(subst ','\'',$(FLAGS_TEXT))' >$@

$(OBJ)/server/%.o: server/%.c $(OBJ)/flags | needs
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(COMPILE) $(call source_cpp,$<) -MMD -MP -c -o $@ $<

# The status page lies in the program (.incbin).
$(OBJ)/server/master/page.o: server/master/page/status.html

$(OBJ)/llhttp/%.o: $(LLHTTP_SHARE)/llhttp/%.c $(OBJ)/flags | needs
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(COMPILE) -w $(LLHTTP_CFLAGS) -MMD -MP -c -o $@ $<

$(PROGRAM): $(call objects,$(PROGRAM_SOURCES)) $(LLHTTP_OBJECTS) $(OBJ)/flags
	$(call say,LINK,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) -pie $(LINK) -o $@.new $(filter %.o,$^) $(LIBS) $(PY_LDFLAGS) -lm
	@mv -f $@.new $@

# The same program: its name tells it what to be.
$(PROGRAM)ctl: | $(PROGRAM)
	@ln -sf ringcorn $@

$(EXTENSION): $(call objects,$(EXTENSION_SOURCES)) $(LLHTTP_OBJECTS) $(OBJ)/flags
	$(call say,LINK,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) -shared $(LINK) -o $@.new $(filter %.o,$^) $(LIBS) -lm
	@mv -f $@.new $@

# For packaging/backend.py: where this Python's program lies.
.PHONY: print-out
print-out:
	@echo $(OUT)

# The package is copied file by file (a server may be reading it), and what has no source any more goes.
python-package: $(patsubst python/%,$(PYDIR)/%,$(PYTHON_FILES))
	@find $(PYDIR)/ringcorn \( -name '*.py' -o -name '*.pyi' \) 2>/dev/null | while read -r copy; do \
	    test -e "python/$${copy#$(PYDIR)/}" || rm -f "$$copy"; done

$(PYDIR)/ringcorn/%: python/ringcorn/%
	@mkdir -p $(@D)
	@cp -p $< $@.new && mv -f $@.new $@

# --- C unit tests and fuzz targets: everything that does not know Python, as an archive, so that a test takes what it needs

$(OBJ)/plain.a: $(call objects,$(PLAIN_SOURCES) server/worker/control.c) $(LLHTTP_OBJECTS)
	$(call say,AR,$@)
	@rm -f $@
	$(Q)$(AR) rcs $@ $^

$(OBJ)/unit/%: tests/unit/%.c tests/unit/tap.h $(OBJ)/plain.a
	$(call say,TEST,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(COMPILE) -Wno-unused-function $(CPP) -Itests/unit -MMD -MP -MF $@.d $(LINK) -o $@ $< $(OBJ)/plain.a $(LIBS) -lm

# The master with workers that have no Python and fail as told, for tests/e2e/test_master.py.
$(OBJ)/fake_ringcorn: tests/e2e/fake_worker.c $(OBJ)/plain.a
	$(call say,TEST,$<)
	$(Q)$(CC) $(COMPILE) $(CPP) $(LINK) -o $@ $< $(OBJ)/plain.a $(LIBS) -lm

# Replays the inputs of tests/fuzz/regression/<target>/ without a fuzzer.
$(OBJ)/fuzz/%: tests/fuzz/%.c tests/fuzz/replay.c $(OBJ)/plain.a
	$(call say,FUZZ,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(COMPILE) $(CPP) $(LINK) -o $@ $< tests/fuzz/replay.c $(OBJ)/plain.a $(LIBS) -lm

$(OBJ)/fuzzers/%: tests/fuzz/%.c $(OBJ)/plain.a
	$(call say,FUZZ,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(COMPILE) -fsanitize=fuzzer $(CPP) $(LINK) -o $@ $< $(OBJ)/plain.a $(LIBS) -lm

.PHONY: unit-programs fuzz-replays unit
unit-programs: $(UNIT_PROGRAMS)
fuzz-replays: $(FUZZ_REPLAYS)
unit: $(UNIT_PROGRAMS) ## build and run the C unit tests of this VARIANT
	@failed=0; for t in $(UNIT_PROGRAMS); do echo "# $$t"; $$t || failed=1; done; exit $$failed

-include $(wildcard $(OBJ)/server/*.d $(OBJ)/server/*/*.d $(OBJ)/llhttp/*.d $(OBJ)/unit/*.d)

# ------------------------------------------------------------------ tests

VENV        := build/venv$(PYTAG)
VENV_PYTHON := $(VENV)/bin/python
BENCH_VENV  := build/bench-venv$(PYTAG)

# Debian packages, where this may install them.
.PHONY: deps-build deps-test deps-bench deps-docker deps-debug
deps-build:
	$(Q)tests/tools/deps.sh $(PYTHON) build
deps-test:
	$(Q)tests/tools/deps.sh $(PYTHON) build test
deps-bench:
	$(Q)tests/tools/deps.sh $(PYTHON) build bench
deps-docker:
	$(Q)tests/tools/deps.sh $(PYTHON) build docker
deps-debug:
	$(Q)tests/tools/deps.sh $(PYTHON) build bench debug

# A debug Python has an ABI of its own, for which there are no wheels with C parts.
build/venv$(PYTAG)/.ready: tests/tools/requirements$(if $(filter %d,$(PY_VERSION)),-debug).txt
build/bench-venv$(PYTAG)/.ready: tests/tools/requirements-bench.txt
build/lint-venv/.ready: tests/tools/requirements-lint.txt
build/%/.ready:
	$(call say,VENV,$(@D))
	$(Q)$(PYTHON) -m venv $(@D)
	$(Q)$(@D)/bin/python -m pip install -q --disable-pip-version-check -r $<
	@touch $@

# A second make, so that it sees what deps-* has installed.
.PHONY: venv
venv: $(VENV)/.ready ## the virtual environment of tests and examples (build/venv)

.PHONY: test test-all conformance
test: deps-test ## everything CI runs: one Python, both backends, C units under ASan; ends with `N passed, N failed`
	$(Q)$(MAKE) --no-print-directory PYTHON=$(PYTHON) venv
	$(Q)$(VENV_PYTHON) tests/tools/run_tests.py --make '$(MAKE)' --python '$(PYTHON)' --tag '$(PYTAG)' --pytest '$(PYTEST)'
test-all: deps-test ## every Python from 3.11, the suite also under ASan/UBSan, version matrices
	$(Q)$(PYTHON) tests/tools/test_all.py --make '$(MAKE)'
conformance: deps-test ## the tables of raw requests, then Autobahn|Testsuite (CPython 2.7); AUTOBAHN='--only autobahn --cases 1.* 7.*'
	$(Q)$(MAKE) --no-print-directory PYTHON=$(PYTHON) all venv
	$(Q)RINGCORN_BIN=$(PROGRAM) $(VENV_PYTHON) tests/conformance/run.py --pytest '$(PYTEST)' $(AUTOBAHN)

.PHONY: test-foreign
test-foreign: deps-test ## the suites of aiohttp, AnyIO, asyncpg, psycopg, redis-py, httpx, websockets, Tornado, uvicorn, ... on this loop; FOREIGN='--keep --io epoll aiohttp'
	$(Q)$(MAKE) --no-print-directory PYTHON=$(PYTHON) all
	$(Q)$(PYTHON) tests/loop/foreign.py --python '$(PYTHON)' $(FOREIGN)

.PHONY: test-docker docker
test-docker: deps-docker ## builds the images and runs them and compose.yaml, by podman, buildah and runc, as root; the base by debootstrap (build/docker/)
	$(Q)$(MAKE) --no-print-directory PYTHON=$(PYTHON) venv
	$(Q)$(VENV_PYTHON) -m pytest -q tests/docker $(PYTEST)
docker: ## the image `ringcorn`, by docker; ENGINE=podman, DOCKER='--build-arg BASE=python:3.13-slim'
	$(Q)$(ENGINE) build -t ringcorn -f docker/Dockerfile $(DOCKER) .
ENGINE ?= docker

.PHONY: stress
stress: deps-bench ## reload, upgrade, everything, kill -9, idle connections, long polls, WebSockets, blocks, growth, Ctrl-C, mixed; STRESS='reload kill --io epoll --short'
	$(Q)$(MAKE) --no-print-directory PYTHON=$(PYTHON) all $(BENCH_VENV)/.ready
	$(Q)RINGCORN_BIN=$(PROGRAM) $(BENCH_VENV)/bin/python tests/stress/run.py $(STRESS)

.PHONY: soak
soak: deps-test ## no guardrail says anything of sound projects in an hour; STRESS='--minutes 60 --io epoll'
	$(Q)$(MAKE) --no-print-directory PYTHON=$(PYTHON) all venv
	$(Q)RINGCORN_BIN=$(PROGRAM) $(VENV_PYTHON) tests/stress/quiet.py $(STRESS)

# The clients are the default Python's; only the servers run in the debug Python.
.PHONY: stress-asan stress-debug
PYTHON_DEBUG ?= python3-dbg
DEBUG_VERSION = $(shell $(PYTHON_DEBUG) -c 'import sysconfig; print(sysconfig.get_config_var("LDVERSION"))')
stress-asan: deps-bench ## the mixed load under ASan; STRESS='--minutes 30'
	$(Q)$(MAKE) --no-print-directory VARIANT=asan all venv
	$(Q)build/venv/bin/python tests/stress/mixed.py --program build/asan/ringcorn $(STRESS)
stress-debug: deps-debug ## the mixed load on a debug Python (PYTHON_DEBUG=python3-dbg), which counts references; STRESS='--minutes 30'
	$(if $(DEBUG_VERSION),,$(error $(PYTHON_DEBUG) is not there: apt-get install python3-dbg))
	$(Q)$(MAKE) --no-print-directory venv
	$(Q)$(MAKE) --no-print-directory PYTHON=$(PYTHON_DEBUG) VARIANT=debug all venv
	$(Q)build/venv/bin/python tests/stress/mixed.py --program build/debug-$(DEBUG_VERSION)/ringcorn --venv build/venv-$(DEBUG_VERSION) $(STRESS)

.PHONY: fuzz
# libFuzzer, by clang. New inputs are kept in build/fuzz/; what crashes belongs into tests/fuzz/regression/<target>/.
FUZZ_SECONDS ?= 60
fuzz: ## fuzz every parser for FUZZ_SECONDS (60) each
	$(if $(shell command -v clang),,$(error clang is not there: apt-get install clang))
	$(Q)$(MAKE) CC=clang VARIANT=fuzz $(patsubst tests/fuzz/%.c,build/fuzz$(PYTAG)/fuzzers/%,$(FUZZ_SOURCES))
	$(Q)for target in $(patsubst tests/fuzz/fuzz_%.c,%,$(FUZZ_SOURCES)); do \
	    mkdir -p build/fuzz/corpus/$$target && \
	    build/fuzz$(PYTAG)/fuzzers/fuzz_$$target -max_total_time=$(FUZZ_SECONDS) -timeout=10 -print_final_stats=1 \
	        -artifact_prefix=build/fuzz/ build/fuzz/corpus/$$target tests/fuzz/regression/$$target || exit 1; done

# ------------------------------------------------------------------ the examples, running

.PHONY: serve
serve: deps-build ## a Django project on port 8000 and a FastAPI application on 8001, until Ctrl-C
	$(Q)$(MAKE) --no-print-directory PYTHON=$(PYTHON) all venv
	$(Q)exec $(VENV_PYTHON) tests/tools/serve.py --program $(PROGRAM)

.PHONY: demo
demo: deps-test ## docker/compose.yaml's scene without containers, visited by Chromium (build/demo/*.png), until Ctrl-C; DEMO='--no-visit'
	$(Q)$(MAKE) --no-print-directory PYTHON=$(PYTHON) all venv
	$(Q)exec $(VENV_PYTHON) tests/tools/demo.py --program $(PROGRAM) $(DEMO)

# ------------------------------------------------------------------ measuring

.PHONY: bench
bench: deps-bench ## CPU per request beside the peers, in one run; BENCH='--cases plain --rounds 5 --seconds 3'
	$(Q)$(MAKE) --no-print-directory PYTHON=$(PYTHON) all $(BENCH_VENV)/.ready
	$(Q)$(BENCH_VENV)/bin/python tests/bench/bench.py --program $(PROGRAM) --venv $(BENCH_VENV) $(BENCH)

.PHONY: bench-loop
bench-loop: deps-bench ## CPU per operation of the event loop alone beside uvloop and asyncio; BENCH='--rows "udp|sleep" --rounds 5 --seconds 1'
	$(Q)$(MAKE) --no-print-directory PYTHON=$(PYTHON) all $(BENCH_VENV)/.ready
	$(Q)$(BENCH_VENV)/bin/python tests/bench/loop.py --package $(PYDIR) --venv $(BENCH_VENV) $(BENCH)

.PHONY: coverage
coverage: venv build/lint-venv/.ready ## which lines the tests reach: build/coverage/index.html
	$(Q)$(MAKE) VARIANT=coverage all unit-programs
	-$(Q)for t in $(patsubst $(OBJ)/%,build/coverage$(PYTAG)/%,$(UNIT_PROGRAMS)); do $$t >/dev/null; done
	-$(Q)RINGCORN_BIN=build/coverage$(PYTAG)/ringcorn $(VENV_PYTHON) -m pytest -q $(PYTEST)
	$(Q)build/lint-venv/bin/gcovr --gcov-ignore-parse-errors -r . -f server/ build/coverage$(PYTAG) \
	    --html-details build/coverage$(PYTAG)/index.html --print-summary

# ------------------------------------------------------------------ keeping the code in shape

LINT_BIN := build/lint-venv/bin

.PHONY: format format-check lint check
format: build/lint-venv/.ready ## clang-format over the C
	$(Q)$(LINT_BIN)/clang-format -i $(C_FILES)
format-check: build/lint-venv/.ready
	$(Q)$(LINT_BIN)/clang-format --dry-run -Werror $(C_FILES)
lint: build/lint-venv/.ready compile_commands.json ## clang-tidy over the C
	$(Q)$(LINT_BIN)/clang-tidy --quiet -p . $(filter server/%.c,$(C_FILES))
check: format-check lint ## what a change must pass before the commit: format, lint, -Werror build, quick tests
	$(Q)$(MAKE) WERROR=1 VARIANT=debug all
	$(Q)$(MAKE) WERROR=1 VARIANT=asan unit
	$(Q)$(MAKE) venv
	$(Q)RINGCORN_BIN=build/debug$(PYTAG)/ringcorn $(VENV_PYTHON) -m pytest -q -x -m 'not slow' --io epoll $(PYTEST)

json_text = $(subst ",\",$(subst \,\\,$(1)))
json_entry = {"directory": "$(CURDIR)", "file": "$(1)", "command": "$(call json_text,$(CC) $(COMPILE) $(call source_cpp,$(1)) -c $(1))"}
comma := ,
compile_commands.json: $(OBJ)/flags Makefile $(PROGRAM_SOURCES) ## for editors and clang-tidy
	$(call say,JSON,$@)
	$(file >$@,[)$(foreach s,$(PROGRAM_SOURCES),$(file >>$@,$(call json_entry,$(s))$(if $(filter $(lastword $(PROGRAM_SOURCES)),$(s)),,$(comma))))$(file >>$@,])

# ------------------------------------------------------------------ installing

.PHONY: install uninstall
LIBDIR := $(PREFIX)/lib/ringcorn
install: all ## into DESTDIR/PREFIX (/usr/local): bin/ringcorn, bin/ringcornctl and lib/ringcorn/python
	install -d '$(DESTDIR)$(PREFIX)/bin' '$(DESTDIR)$(LIBDIR)/python/ringcorn'
	install -m 755 $(PROGRAM) '$(DESTDIR)$(PREFIX)/bin/ringcorn'
	ln -sf ringcorn '$(DESTDIR)$(PREFIX)/bin/ringcornctl'
	install -m 755 $(EXTENSION) '$(DESTDIR)$(LIBDIR)/python/'
	cd python && find ringcorn \( -name '*.py' -o -name '*.pyi' -o -name py.typed \) -exec install -D -m 644 '{}' '$(DESTDIR)$(LIBDIR)/python/{}' ';'
uninstall: ## what install put there
	rm -f '$(DESTDIR)$(PREFIX)/bin/ringcorn' '$(DESTDIR)$(PREFIX)/bin/ringcornctl'
	rm -rf '$(DESTDIR)$(LIBDIR)'

.PHONY: clean
clean: ## remove everything that was built (virtual environments stay: rm -r build)
	@rm -rf build/ringcorn build/ringcornctl build/python build/release* build/debug* build/asan* build/tsan* build/coverage* build/fuzz* build/.python.* \
	    build/tools compile_commands.json
