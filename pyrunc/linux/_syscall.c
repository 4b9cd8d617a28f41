// SPDX-License-Identifier: Apache-2.0
//
// pyrunc.linux._syscall: the calls that Python has no safe door to.
//
//   syscall(nr, *args) -> int             any system call that neither blocks for ever nor forks
//   clone3(flags, exit_signal, cgroup_fd) a fork that can also make namespaces, or enter a cgroup
//   address(buffer) -> int                where bytes are, for a structure that points to them (bpf(2))
//
// ctypes could do both (and _syscall_ctypes.py does where there was no compiler), but costs 3 ms to
// import, and keeps more of itself in the child.  Built against the limited API: one object serves
// CPython 3.11 and later.

#define Py_LIMITED_API 0x030b0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MAX_ARGS 6

#ifndef __NR_clone3
#define __NR_clone3 435  // the same on every architecture (calls added since 5.1 share one table)
#endif

// From linux/sched.h; spelt out because older headers lack the newer ones.
#define CLONE_CSIGNAL 0x000000ffULL
#define CLONE_NEWTIME_FLAG 0x00000080ULL
#define CLONE_INTO_CGROUP_FLAG 0x200000000ULL

// What leaves the child a process of its own, with its own memory, stack and descriptors.  All else
// (CLONE_VM, CLONE_THREAD, CLONE_SETTLS, the ..TID pointers, CLONE_PIDFD) would share the
// interpreter with the child, or makes the kernel write to a place that we don't pass.
#define FORK_LIKE_FLAGS                                                                       \
	(CLONE_NEWTIME_FLAG | 0x00002000ULL /* PTRACE */ | 0x00008000ULL /* PARENT */ |           \
	 0x00020000ULL /* NEWNS */ | 0x00800000ULL /* UNTRACED */ | 0x02000000ULL /* NEWCGROUP */ | \
	 0x04000000ULL /* NEWUTS */ | 0x08000000ULL /* NEWIPC */ | 0x10000000ULL /* NEWUSER */ |  \
	 0x20000000ULL /* NEWPID */ | 0x40000000ULL /* NEWNET */ | 0x80000000ULL /* IO */ |       \
	 0x100000000ULL /* CLEAR_SIGHAND */ | CLONE_INTO_CGROUP_FLAG)

// struct clone_args as of Linux 5.7 (clone3(2)); Linux 5.3 knew the first 64 bytes.
struct clone_arguments {
	uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
	uint64_t set_tid, set_tid_size, cgroup;
};
#define CLONE_ARGS_SIZE_VER0 64

PyDoc_STRVAR(syscall_doc,
"syscall(nr, /, *args)\n--\n\n"
"Do system call `nr` with up to six arguments (syscall(2)) and return what it returned.\n\n"
"An int is passed as 64 bits (signed or unsigned), None as 0, and a bytes-like object by its\n"
"address: end a path with a NUL.  Raises OSError.  The GIL is released meanwhile.");

static PyObject *
do_syscall(PyObject *module, PyObject *const *argv, Py_ssize_t argc)
{
	(void)module;
	if (argc < 1 || argc > 1 + MAX_ARGS) {
		PyErr_Format(PyExc_TypeError, "syscall takes a number and up to %d arguments", MAX_ARGS);
		return NULL;
	}
	long nr = PyLong_AsLong(argv[0]);
	if (nr == -1 && PyErr_Occurred())
		return NULL;

	unsigned long value[MAX_ARGS] = {0};
	Py_buffer held[MAX_ARGS];
	int n_held = 0, saved_errno = 0;
	long result = -1;

	for (Py_ssize_t i = 1; i < argc; i++) {
		if (argv[i] == Py_None)
			continue;
		if (PyLong_Check(argv[i])) {
			value[i - 1] = (unsigned long)PyLong_AsUnsignedLongLongMask(argv[i]);
			if (PyErr_Occurred())
				goto release;
		} else {
			// Exporting a buffer also pins it: a bytearray can't be resized while the kernel writes.
			if (PyObject_GetBuffer(argv[i], &held[n_held], PyBUF_SIMPLE) < 0)
				goto release;
			value[i - 1] = (unsigned long)(uintptr_t)held[n_held++].buf;
		}
	}
	Py_BEGIN_ALLOW_THREADS
	result = syscall(nr, value[0], value[1], value[2], value[3], value[4], value[5]);
	saved_errno = errno;
	Py_END_ALLOW_THREADS

release:
	while (n_held > 0)
		PyBuffer_Release(&held[--n_held]);
	if (PyErr_Occurred())
		return NULL;
	if (result == -1) {
		errno = saved_errno;
		return PyErr_SetFromErrno(PyExc_OSError);
	}
	return PyLong_FromLong(result);
}

static long
raw_clone(uint64_t flags, uint64_t exit_signal, int cgroup_fd)
{
	struct clone_arguments args = {.flags = flags, .exit_signal = exit_signal};
	size_t size = CLONE_ARGS_SIZE_VER0;  // what every kernel with clone3 takes

	if (cgroup_fd >= 0) {
		args.flags |= CLONE_INTO_CGROUP_FLAG;
		args.cgroup = (uint64_t)cgroup_fd;
		size = sizeof args;
	}
	long pid = syscall(__NR_clone3, &args, size);
	// A seccomp filter can't look behind the pointer, so container hosts answer ENOSYS to clone3
	// (some EPERM) and let clone(2) be.  CLONE_NEWTIME has no place in clone(2), whose low byte is
	// the signal; nor have the flags above 32 bits.
	if (pid == -1 && (errno == ENOSYS || errno == EPERM) && cgroup_fd < 0 &&
	    !(flags & (CLONE_CSIGNAL | ~0xffffffffULL))) {
		// flags, stack, parent_tid, then child_tid and tls in the order of the architecture: all 0.
		pid = syscall(__NR_clone, (unsigned long)(flags | exit_signal), 0UL, 0UL, 0UL, 0UL);
	}
	return pid;
}

PyDoc_STRVAR(clone3_doc,
"clone3(flags, exit_signal, cgroup_fd=-1, /)\n--\n\n"
"Fork with clone3(2): the pid in the parent, 0 in the child.\n\n"
"`flags` are CLONE_NEW*, CLONE_PARENT (with exit_signal 0) and the few others that leave the child\n"
"a process with memory of its own; others raise ValueError.  With `cgroup_fd`, a descriptor of a\n"
"cgroup v2 directory, the child starts there (Linux 5.7).  Where clone3 is refused, clone(2) serves.\n"
"One thread only, as for os.fork.");

static PyObject *
do_clone3(PyObject *module, PyObject *const *argv, Py_ssize_t argc)
{
	(void)module;
	if (argc < 2 || argc > 3) {
		PyErr_SetString(PyExc_TypeError, "clone3 takes flags, exit_signal and optionally cgroup_fd");
		return NULL;
	}
	unsigned long long flags = PyLong_AsUnsignedLongLong(argv[0]);
	if (PyErr_Occurred())
		return NULL;
	long exit_signal = PyLong_AsLong(argv[1]);
	if (PyErr_Occurred())
		return NULL;
	long cgroup_fd = argc > 2 ? PyLong_AsLong(argv[2]) : -1;
	if (PyErr_Occurred())
		return NULL;
	if (flags & ~FORK_LIKE_FLAGS || exit_signal < 0 || exit_signal > 64 || cgroup_fd > INT_MAX) {
		PyErr_SetString(PyExc_ValueError, "not the arguments of a fork");
		return NULL;
	}

	// What os.fork does around fork(2): the import lock, and the interpreter's own locks and state
	// in the child.  The GIL is kept throughout.  libc's fork handlers don't run, and its cached
	// thread id is stale in the child: neither matters to a program of one thread.
	PyOS_BeforeFork();
	long pid = raw_clone(flags, (uint64_t)exit_signal, (int)cgroup_fd);
	int saved_errno = errno;
	if (pid == 0)
		PyOS_AfterFork_Child();
	else
		PyOS_AfterFork_Parent();
	if (pid == -1) {
		errno = saved_errno;
		return PyErr_SetFromErrno(PyExc_OSError);
	}
	return PyLong_FromLong(pid);
}

PyDoc_STRVAR(address_doc,
"address(buffer, /)\n--\n\n"
"Where the contents of a bytes or bytearray are, for a structure that points to them.  Good while\n"
"the caller holds the object, and doesn't resize it.");

static PyObject *
do_address(PyObject *module, PyObject *buffer)
{
	(void)module;
	// No other type: these two neither move nor free what they hold when the buffer is released.
	if (PyBytes_Check(buffer))
		return PyLong_FromVoidPtr(PyBytes_AsString(buffer));
	if (PyByteArray_Check(buffer))
		return PyLong_FromVoidPtr(PyByteArray_AsString(buffer));
	PyErr_SetString(PyExc_TypeError, "address takes bytes or a bytearray");
	return NULL;
}

static PyMethodDef methods[] = {
	{"syscall", (PyCFunction)(void (*)(void))do_syscall, METH_FASTCALL, syscall_doc},
	{"clone3", (PyCFunction)(void (*)(void))do_clone3, METH_FASTCALL, clone3_doc},
	{"address", do_address, METH_O, address_doc},
	{NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {
	PyModuleDef_HEAD_INIT,
	.m_name = "pyrunc.linux._syscall",
	.m_doc = "syscall(2) and clone3(2).",
	.m_size = 0,
	.m_methods = methods,
	.m_slots = slots,
};

PyMODINIT_FUNC
PyInit__syscall(void)
{
	return PyModuleDef_Init(&definition);
}
