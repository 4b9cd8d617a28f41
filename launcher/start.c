// SPDX-License-Identifier: Apache-2.0
//
// `start` without an interpreter; part of pyrunc.c.
//
// An engine waits for it between `create` and the program, and to let an init go takes a few system calls.
// This is pyrunc/starting.py for a container that create found to have nothing else to be done at its start
// (state.json begins with what has to be known then: START in state.py).  Whatever is out of the ordinary
// before the init is let go is left to Python, which begins anew; what comes after it, too, with the descriptors.

#include <poll.h>
#include <sys/file.h>

#define STATE_DIRECTORY "/run/pyrunc"  // state.py, default_root
#define START_BEGIN "{\"start\":\""    // state.py, write_state
#define COMM_SIZE 64

// An init that was let go, and has not become the program in the way that most do.
static struct released {
	int fifo, pidfd;
	char name[COMM_SIZE];
} released = {-1, -1, ""};

struct start_arguments {
	const char *root, *log, *id;
};

// Whether the state of who gives no --root is in STATE_DIRECTORY: state.py, default_root.
static bool
has_system_root(void)
{
	const char *runtime = getenv("XDG_RUNTIME_DIR"), *user = getenv("USER");

	return geteuid() == 0 && (runtime == NULL || *runtime != '/' || (user != NULL && strcmp(user, "root") == 0));
}

// False for what Python has to say something about.
static bool
parse_start(int argc, char **argv, struct start_arguments *found)
{
	int i = 1;

	*found = (struct start_arguments){"", NULL, NULL};
	for (; i + 1 < argc && argv[i][0] == '-'; i++) {
		if (strcmp(argv[i], "--systemd-cgroup") == 0)
			continue;
		const char *name = argv[i++];
		if (strcmp(name, "--root") == 0)
			found->root = argv[i];
		else if (strcmp(name, "--log") == 0)
			found->log = argv[i];
		else if (strcmp(name, "--log-format") != 0 ||
		         (strcmp(argv[i], "json") != 0 && strcmp(argv[i], "text") != 0))
			return false;
	}
	if (argc - i != 2 || strcmp(argv[i], "start") != 0 || !is_name(argv[i + 1]))
		return false;
	found->id = argv[i + 1];
	if (*found->root == '\0' && has_system_root())
		found->root = STATE_DIRECTORY;
	return *found->root != '\0' && getenv("NOTIFY_SOCKET") == NULL;
}

// The container's directory below the state root, locked; -1 where it isn't there, or another command has it.
static int
lock_container(const char *root, const char *id)
{
	char path[PATH_MAX];
	struct stat opened, there;

	if (!join(path, root, id))
		return -1;
	int directory = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (directory < 0)
		return -1;
	if (flock(directory, LOCK_EX | LOCK_NB) == 0 && fstat(directory, &opened) == 0 && lstat(path, &there) == 0 &&
	    opened.st_ino == there.st_ino && opened.st_dev == there.st_dev &&
	    (opened.st_uid == geteuid() || opened.st_uid == 0))  // what somebody else has put there isn't believed
		return directory;
	close(directory);
	return -1;
}

// The beginning of a file as a string into `text`: whether it could be read.
static bool
read_beginning(int directory, const char *name, char *text, size_t size)
{
	int fd = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return false;
	ssize_t n = read(fd, text, size - 1);
	close(fd);
	text[n < 0 ? 0 : n] = '\0';
	return n > 0;
}

// Whether the process is the one that create has made, and lives: state.py, process_start.
static bool
is_init(int pid, unsigned long long start_time)
{
	char path[64], text[4096], state;
	unsigned long long found;

	snprintf(path, sizeof path, "/proc/%d/stat", pid);
	if (!read_beginning(AT_FDCWD, path, text, sizeof text))
		return false;
	const char *fields = strrchr(text, ')');  // the name before it may hold anything
	return fields != NULL &&
	       sscanf(fields, ") %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
	              &state, &found) == 2 &&
	       strchr("ZXx", state) == NULL && found == start_time;
}

// Whether the cgroup is there and isn't frozen, by itself or by an ancestor; "" is none.
static bool
is_thawed(const char *cgroup)
{
	char path[PATH_MAX], text[256];

	if (*cgroup == '\0')
		return true;
	if (join(path, cgroup, "freezer.state") && read_beginning(AT_FDCWD, path, text, sizeof text))  // v1
		return strcmp(text, "THAWED\n") == 0;
	return join(path, cgroup, "cgroup.freeze") && read_beginning(AT_FDCWD, path, text, sizeof text) &&
	       strcmp(text, "0\n") == 0 && join(path, cgroup, "cgroup.events") &&
	       read_beginning(AT_FDCWD, path, text, sizeof text) && strstr(text, "frozen 0\n") != NULL;
}

static bool
read_comm(int pid, char *name)
{
	char path[64];

	snprintf(path, sizeof path, "/proc/%d/comm", pid);
	return read_beginning(AT_FDCWD, path, name, COMM_SIZE);
}

// Open the fifo the init waits on and take it away: from then on it goes on.  Its pid, 0 if nothing was done.
static int
release(int directory)
{
	char text[PATH_MAX + 64];
	int pid, end = 0;
	unsigned long long start_time;

	if (!read_beginning(directory, "state.json", text, sizeof text) ||
	    strncmp(text, START_BEGIN, strlen(START_BEGIN)) != 0)
		return 0;
	char *begin = text + strlen(START_BEGIN), *quote = strchr(begin, '"');
	if (quote == NULL)
		return 0;
	*quote = '\0';
	if (strchr(begin, '\\') != NULL || sscanf(begin, "%d %llu %n", &pid, &start_time, &end) != 2 || end == 0)
		return 0;

	released.pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (released.pidfd < 0 || !is_init(pid, start_time) || !is_thawed(begin + end) || !read_comm(pid, released.name))
		return 0;
	released.fifo = openat(directory, "exec.fifo", O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
	if (released.fifo < 0)
		return 0;
	if (unlinkat(directory, "exec.fifo", 0) == 0)
		return pid;
	released.fifo = -1;  // and stays open: an init whose fifo is closed ends
	return 0;
}

// Wait for its execve, which closes the fifo; whether it has become the program.
static bool
has_started(int pid)
{
	struct pollfd files[] = {{.fd = released.fifo, .events = POLLIN}, {.fd = released.pidfd, .events = POLLIN}};
	char name[COMM_SIZE];

	while (poll(files, LENGTH(files), -1) < 0)
		if (errno != EINTR)
			return false;
	// Closed without a word, by a process that has another name since.
	return (files[0].revents & (POLLIN | POLLHUP)) == POLLHUP && read_comm(pid, name) &&
	       strcmp(name, released.name) != 0;
}

// Doesn't return where that was all of it.
static void
start_without_python(int argc, char **argv)
{
	struct start_arguments arguments;

	// Who may have to tell what went wrong has to be there.
	if (!parse_start(argc, argv, &arguments) || access(PYRUNC_LIBDIR "/" PYRUNC_LIBPYTHON, R_OK) != 0)
		return;
	for (int fd = 0; fd <= 2; fd++)
		if (fcntl(fd, F_GETFD) < 0)
			return;
	if (arguments.log != NULL) {  // log.py
		int log = open(arguments.log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0644);
		if (log < 0)
			return;
		close(log);
	}
	int directory = lock_container(arguments.root, arguments.id);
	if (directory < 0)
		return;
	int pid = release(directory);
	if (pid > 0 && has_started(pid))
		exit(0);
	if (released.fifo < 0)
		close(released.pidfd);
	close(directory);
}
