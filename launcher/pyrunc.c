// SPDX-License-Identifier: Apache-2.0
//
// The `pyrunc` command: a small program that embeds the Python interpreter, isolated.  By the name
// containerd-shim-pyrunc-v1 it is the shim, by the name pyrunc-cni the plugin for CNI.
//
// Why not a script of `python3`: the interpreter's own start costs more than the runtime's work
// (site, path computation, finalisation), listens to the caller's environment (PYTHONPATH,
// PYTHONHOME) and shows the host's python3 to the container as /proc/PID/exe.  So, in this order:
//
//   1. find_self      where this file lies: the package is looked for beside it, never in $PATH.
//   2. seal           commands that enter containers run from a sealed, throw-away copy, since
//                     what is inside may open /proc/PID/exe for writing (CVE-2019-5736).
//   3. run_embedded   dlopen() libpython, start it with every path preset, call the entry function.
//   4. run_python     where libpython or its library moved: exec an interpreter, just as isolated.
//
// What is done without an interpreter is in shim.c and start.c, the package's modules in one file in frozen.c.
//
// setup.py compiles it, and defines PYRUNC_LIBPYTHON, PYRUNC_LIBDIR, PYRUNC_STDLIB, PYRUNC_DYNLOAD,
// PYRUNC_PYTHON and PYRUNC_PREFIX from the building interpreter's sysconfig, and PYRUNC_MAGIC, its
// bytecode's.  Without a compiler pyrunc.sh serves.

#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U  // Linux 6.3
#endif

#define STRING_(x) #x
#define STRING(x) STRING_(x)
#define PYTHON_VERSION STRING(PY_MAJOR_VERSION) "." STRING(PY_MINOR_VERSION)
#define ALL_SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)
#define UNLINKED_COPY_MODE 0510  // a mode that no installed pyrunc has: see is_private_copy
#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

extern char **environ;

static void __attribute__((noreturn, format(printf, 1, 2)))
die(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fputs("pyrunc: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	exit(1);
}

// What this program is by the name of its file: the module whose `entry` is called, and its file below the
// package's directory.
static const struct program {
	const char *name, *module, *script;
} programs[] = {
	{"pyrunc", "pyrunc.__main__", "pyrunc/__main__.py"},
	{"containerd-shim-pyrunc-v1", "pyrunc_shim.__main__", "pyrunc_shim/__main__.py"},
	{"pyrunc-cni", "pyrunc.net.cni_plugin", "pyrunc/net/cni_plugin.py"},
};
enum { COMMAND, SHIM, CNI_PLUGIN };

static int
which_program(const char *self)
{
	for (int i = SHIM; i <= CNI_PLUGIN; i++)
		if (strcmp(strrchr(self, '/') + 1, programs[i].name) == 0)
			return i;
	return COMMAND;
}

// --- 1. Where am I ---------------------------------------------------------------------------

// Whether /proc/self/exe (as `exe`) is the copy made by `seal` and not the installed file: a memfd
// with all seals, or else an unlinked file in the mode that only reopen_unlinked_copy gives.
static bool
is_private_copy(int exe)
{
	struct stat st;
	int seals = fcntl(exe, F_GET_SEALS);  // EINVAL for what is neither memfd nor tmpfs

	if (seals >= 0 && (seals & ALL_SEALS) == ALL_SEALS)
		return true;
	return fstat(exe, &st) == 0 && st.st_nlink == 0 && (st.st_mode & 07777) == UNLINKED_COPY_MODE;
}

// The absolute path of this program into `path`.  argv[0] is anybody's word, and only believed in
// the copy, where this program wrote it.
static void
find_self(char *path, size_t size, bool private_copy, const char *argv0)
{
	if (private_copy && argv0 != NULL && argv0[0] == '/' && strlen(argv0) < size) {
		strcpy(path, argv0);
		return;
	}
	ssize_t length = readlink("/proc/self/exe", path, size - 1);
	if (length < 0)
		die("readlink /proc/self/exe: %s (is /proc mounted?)", strerror(errno));
	path[length] = '\0';
	// A package manager replaces a file by renaming over it, also under a pyrunc that has just begun.
	static const char deleted[] = " (deleted)";
	size_t tail = sizeof deleted - 1;
	if ((size_t)length > tail && strcmp(path + length - tail, deleted) == 0 && access(path, F_OK) != 0)
		path[length - tail] = '\0';
}

// --- 2. The seal -----------------------------------------------------------------------------

// Global options that take their value as the next argument.
static const char *const value_options[] = {
	"--root", "--log", "--log-format", "--log-level", "--rootless", "--cgroup-manager", "--criu",
};
static const char *const plain_options[] = {
	"--debug", "--systemd-cgroup", "--version", "-v", "-V", "--help", "-h",
};
// Commands that never run in, or join, a container's namespaces.  Any other gets the seal: a new
// command is safe before it is fast.
static const char *const outside_commands[] = {
	"state", "start", "kill", "delete", "list", "ps", "pause", "resume", "update", "events",
	"spec", "features", "explain", "net", "help",
};

static bool
among(const char *word, const char *const *list, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(word, list[i]) == 0)
			return true;
	return false;
}

// Whether the command may enter a container; true when in doubt.  _seal.py has the same tables.
static bool
enters_container(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		const char *word = argv[i];
		if (word[0] != '-')
			return !among(word, outside_commands, LENGTH(outside_commands));
		if (word[1] == '-' && strchr(word, '=') != NULL)
			continue;
		if (among(word, value_options, LENGTH(value_options)))
			i++;
		else if (!among(word, plain_options, LENGTH(plain_options)))
			return true;
	}
	return false;  // no command: --help, --version or a usage error
}

static bool
copy_file(int from, int to)
{
	struct stat st;

	if (fstat(from, &st) < 0)
		return false;
	for (off_t done = 0; done < st.st_size;) {
		ssize_t n = sendfile(to, from, &done, (size_t)(st.st_size - done));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
	}
	return true;
}

static int
make_memfd(int exe)
{
	unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
	int fd = memfd_create("pyrunc", flags | MFD_EXEC);

	if (fd < 0 && errno == EINVAL)  // before Linux 6.3 every memfd was executable
		fd = memfd_create("pyrunc", flags);
	if (fd < 0)
		return -1;
	if (!copy_file(exe, fd) || fchmod(fd, 0500) < 0 || fcntl(fd, F_ADD_SEALS, ALL_SEALS) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

// Where a memfd may not be executed (vm.memfd_noexec=2): a file without a name, opened again for
// reading, since a file open for writing can't be executed (ETXTBSY).  It can be written to by a
// privileged container, after which it is thrown away: the next pyrunc makes its own.
static int
make_unlinked_copy(int exe, const char *directory)
{
	char link[64];
	int reader = -1;
	int fd = open(directory, O_TMPFILE | O_RDWR | O_EXCL | O_CLOEXEC, 0700);

	if (fd < 0)
		return -1;
	if (copy_file(exe, fd) && fchmod(fd, UNLINKED_COPY_MODE) == 0) {
		snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
		reader = open(link, O_RDONLY | O_CLOEXEC);
	}
	close(fd);
	return reader;
}

// Become a private copy of this program.  Returns only on failure, with errno of the first attempt.
static void
seal(int exe, char *self, char **argv)
{
	static const char *const directories[] = {"/run", "/dev/shm", "/tmp"};
	static char *no_arguments[] = {NULL, NULL};
	int first_error = 0;

	if (argv[0] == NULL)
		argv = no_arguments;
	argv[0] = self;
	for (size_t i = 0; i <= LENGTH(directories); i++) {
		int fd = i == 0 ? make_memfd(exe) : make_unlinked_copy(exe, directories[i - 1]);
		if (fd >= 0) {
			// Not fexecve(3), which falls back to /proc/self/fd and then needs the descriptor open.
			syscall(SYS_execveat, fd, "", argv, environ, AT_EMPTY_PATH);
			int error = errno;
			close(fd);
			errno = error;
		}
		if (first_error == 0)
			first_error = errno;
	}
	errno = first_error;
}

#include "shim.c"
#include "start.c"

// --- The package -----------------------------------------------------------------------------

// The directory that holds pyrunc/, into `package` (PATH_MAX long): by where `self` was installed.
static bool
find_package(const char *self, char *package)
{
	static const char *const places[] = {
		"/lib/python" PYTHON_VERSION "/site-packages",
		"/lib/python" PYTHON_VERSION "/dist-packages",  // Debian: its python's own pip
		"/lib64/python" PYTHON_VERSION "/site-packages",
		"/lib/python3/dist-packages",  // a Debian package
		"",  // pip install --target
	};
	char probe[PATH_MAX];
	const char *slash = strrchr(self, '/');
	size_t prefix = (size_t)(slash - self);

	while (prefix > 0 && self[prefix - 1] != '/')  // from PREFIX/bin to PREFIX/
		prefix--;
	if (prefix > 0)
		prefix--;
	for (size_t i = 0; i < LENGTH(places); i++) {
		int n = snprintf(package, PATH_MAX, "%.*s%s", (int)prefix, self, places[i]);
		int m = snprintf(probe, sizeof probe, "%s/pyrunc/__init__.py", package);
		if (n < PATH_MAX && m < (int)sizeof probe && access(probe, F_OK) == 0)
			return true;
	}
	return false;
}

// --- 3. The embedded interpreter -------------------------------------------------------------

// Each function of libpython that is used, found with dlsym: a libpython that isn't there is then
// a case for the fallback, and not an error of the dynamic linker.
#define PYTHON_API(X)              \
	X(Py_PreInitialize)            \
	X(PyPreConfig_InitIsolatedConfig) \
	X(PyConfig_InitIsolatedConfig) \
	X(PyConfig_SetBytesString)     \
	X(PyConfig_SetBytesArgv)       \
	X(PyWideStringList_Append)     \
	X(PyStatus_Exception)          \
	X(Py_DecodeLocale)             \
	X(Py_ExitStatusException)      \
	X(Py_InitializeFromConfig)     \
	X(PyImport_ImportModule)       \
	X(PyImport_FrozenModules)      \
	X(PyUnicode_DecodeFSDefault)   \
	X(PySys_SetObject)             \
	X(PyObject_CallMethod)         \
	X(PyObject_GetAttrString)      \
	X(PySequence_Contains)         \
	X(PyErr_Print)

static struct {
#define X(name) __typeof__(&name) name;
	PYTHON_API(X)
#undef X
} py;

static bool
load_libpython(void)
{
	// RTLD_GLOBAL: extension modules look up the interpreter's symbols without naming a library.
	// RTLD_LAZY: binding all of libpython's calls to itself takes 0.3 ms of the 8 that a start takes.
	void *library = dlopen(PYRUNC_LIBDIR "/" PYRUNC_LIBPYTHON, RTLD_LAZY | RTLD_GLOBAL);

	if (library == NULL)
		library = dlopen(PYRUNC_LIBPYTHON, RTLD_LAZY | RTLD_GLOBAL);
	if (library == NULL)
		return false;
#define X(name)                                                \
	py.name = (__typeof__(&name))dlsym(library, #name);        \
	if (py.name == NULL)                                       \
		return false;
	PYTHON_API(X)
#undef X
	return access(PYRUNC_STDLIB "/encodings/__init__.py", F_OK) == 0;
}

#include "frozen.c"

static void
check(PyStatus status)
{
	if (py.PyStatus_Exception(status))
		py.Py_ExitStatusException(status);
}

static void
set_path(PyConfig *config, wchar_t **field, const char *path)
{
	check(py.PyConfig_SetBytesString(config, field, path));
}

static void
add_search_path(PyConfig *config, const char *path)
{
	wchar_t *wide = py.Py_DecodeLocale(path, NULL);  // never freed: one allocation, one process

	if (wide == NULL)
		die("out of memory");
	check(py.PyWideStringList_Append(&config->module_search_paths, wide));
}

// Python refuses to start with a directory as stdin, which is its own business at most: stdin is the
// container's.  The descriptor that holds it meanwhile, or -1.
static int
put_directory_aside(void)
{
	struct stat st;

	if (fstat(0, &st) < 0 || !S_ISDIR(st.st_mode))
		return -1;
	int kept = fcntl(0, F_DUPFD_CLOEXEC, 3);
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (kept < 0 || null < 0)
		die("stdin is a directory: %s", strerror(errno));
	dup2(null, 0);
	close(null);
	return kept;
}

static void
initialize(const char *package, int argc, char **argv)
{
	PyPreConfig preconfig;
	PyConfig config;

	py.PyPreConfig_InitIsolatedConfig(&preconfig);
	preconfig.utf8_mode = 1;  // file names and arguments: UTF-8 with surrogateescape in any locale
	check(py.Py_PreInitialize(&preconfig));

	py.PyConfig_InitIsolatedConfig(&config);  // no environment, no user site, argv not parsed
	config.site_import = 0;
	config.safe_path = 1;
	config.write_bytecode = 0;
	config.pathconfig_warnings = 0;
	config.install_signal_handlers = 1;  // SIGPIPE as an errno; Ctrl-C as an exception that cleans up

	// With all of these set no path is computed.  The executable is the interpreter and not us: it is
	// what sys.executable promises, and Python reads a ._pth file beside it in spite of all the rest.
	set_path(&config, &config.executable, PYRUNC_PYTHON);
	set_path(&config, &config.base_executable, PYRUNC_PYTHON);
	set_path(&config, &config.prefix, PYRUNC_PREFIX);
	set_path(&config, &config.base_prefix, PYRUNC_PREFIX);
	set_path(&config, &config.exec_prefix, PYRUNC_PREFIX);
	set_path(&config, &config.base_exec_prefix, PYRUNC_PREFIX);
	set_path(&config, &config.stdlib_dir, PYRUNC_STDLIB);
	config.module_search_paths_set = 1;
	add_search_path(&config, PYRUNC_DYNLOAD);  // first: of the library it is an extension that is searched for
	add_search_path(&config, PYRUNC_STDLIB);
	add_search_path(&config, package);  // last: nothing in it can shadow the standard library

	check(py.PyConfig_SetBytesArgv(&config, argc, argv));
	int directory = put_directory_aside();
	check(py.Py_InitializeFromConfig(&config));
	if (directory >= 0) {
		dup2(directory, 0);
		close(directory);
	}
}

static void __attribute__((noreturn))
run_embedded(const char *self, const char *package, int argc, char **argv)
{
	bool frozen = offer_frozen_modules(package);
	initialize(package, argc, argv);
	if (frozen)
		locate_frozen_modules(package);
	PyObject *module = py.PyImport_ImportModule(programs[which_program(self)].module);
	// entry() ends the process itself; being here again is a defect, told with a traceback.
	if (module != NULL)
		py.PyObject_CallMethod(module, "entry", released.fifo < 0 ? "i" : "i(iiy)", 1, released.fifo, released.pidfd,
		                       released.name);
	py.PyErr_Print();
	fflush(NULL);
	_exit(1);
}

// --- 4. An interpreter beside us -------------------------------------------------------------

static void
run_python(const char *self, const char *package, int argc, char **argv)
{
	static const char *const names[] = {
		"python" PYTHON_VERSION, "python3.11", "python3.12", "python3.13", "python3.14", "python3",
	};
	static char *const options[] = {"-I", "-S", "-P", "-B", "-X", "utf8"};
	char python[PATH_MAX], script[PATH_MAX], bin[PATH_MAX];
	char **args = calloc((size_t)argc + LENGTH(options) + 3, sizeof *args);

	if (args == NULL)
		return;
	snprintf(bin, sizeof bin, "%.*s", (int)(strrchr(self, '/') - self), self);
	snprintf(script, sizeof script, "%.*s/%s", PATH_MAX - 32, package, programs[which_program(self)].script);
	size_t n = 1;
	for (size_t i = 0; i < LENGTH(options); i++)
		args[n++] = options[i];
	args[n++] = script;
	for (int i = 1; i < argc; i++)
		args[n++] = argv[i];

	// An isolated interpreter still believes these about where its standard library is (getpath.py).
	unsetenv("PYTHONEXECUTABLE");
	unsetenv("__PYVENV_LAUNCHER__");

	const char *const directories[] = {bin, "/usr/bin", "/usr/local/bin"};
	for (size_t v = 0; v < LENGTH(names); v++)
		for (size_t d = 0; d < LENGTH(directories); d++) {
			snprintf(python, sizeof python, "%.*s/%s", PATH_MAX - 32, directories[d], names[v]);
			args[0] = python;
			execv(python, args);
		}
	free(args);
}

int
main(int argc, char **argv)
{
	char self[PATH_MAX], package[PATH_MAX];
	int exe = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

	if (exe < 0)
		die("open /proc/self/exe: %s (is /proc mounted?)", strerror(errno));
	bool private_copy = is_private_copy(exe);
	find_self(self, sizeof self, private_copy, argc > 0 ? argv[0] : NULL);
	// The plugin enters network namespaces only, where nobody can look at it, and has no arguments.
	int program = which_program(self);
	if (program == SHIM && private_copy) {
		argc = without_room(argc, argv);
	} else if (program == SHIM) {
		shim_without_python(exe, argc, argv);
		if (getenv(TEMPLATE_VARIABLE) != NULL)
			argv = with_room(argc, argv);
	}
	if (!private_copy && (program == SHIM || (program == COMMAND && enters_container(argc, argv)))) {
		signal(SIGXFSZ, SIG_IGN);  // an errno of the copy; Python does the same
		seal(exe, self, argv);
		die("cannot run from a sealed copy of itself: %s (%s)", strerror(errno), errno == EFBIG ?
		    "raise the limit on the size of files: ulimit -f" : "allow executable memfds with "
		    "sysctl vm.memfd_noexec=0, or mount /run, /dev/shm or /tmp without noexec");
	}
	close(exe);
	if (program == COMMAND && !private_copy)
		start_without_python(argc, argv);

	if (!find_package(self, package))
		die("the pyrunc package is not beside %s (reinstall pyrunc)", self);
	if (load_libpython())
		run_embedded(self, package, argc, argv);
	run_python(self, package, argc, argv);
	die("%s and a python3 of version 3.11 or later are missing (install one of them)", PYRUNC_LIBPYTHON);
}
