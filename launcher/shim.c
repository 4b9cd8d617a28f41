// SPDX-License-Identifier: Apache-2.0
//
// What containerd-shim-pyrunc-v1 does without an interpreter; part of pyrunc.c.
//
// containerd runs `delete` after every container, also where the shim has left nothing of it: that
// answer needs no Python.  pyrunc_shim/manage.py does the same, and all the rest: whatever is out of the
// ordinary in here, an argument even, is left to it.  `start` is handed on to the process that an earlier
// one has left behind (pyrunc_shim/template.py), if that is there and wants it.

#include <stdint.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>

#define STATE_ROOT "/run/containerd/pyrunc"  // pyrunc_shim/options.py
#define OPTIONS_BEGIN "{\"root\":\""
#define OPTIONS_END "\",\"systemd_cgroup\":"
#define MAX_ID 1024                          // pyrunc/state.py
#define KILLED 137                           // 128 + SIGKILL
#define TEMPLATES "/run/containerd/pyrunc-shim"
#define TEMPLATE_VARIABLE "PYRUNC_SHIM_TEMPLATE"  // pyrunc_shim/starting.py
#define TEMPLATE_SECONDS 5

struct shim_arguments {
	const char *namespace, *id, *bundle, *action;
};

// Flags in Go's style.  False for what Python has to say something about.
static bool
parse_shim_arguments(int argc, char **argv, struct shim_arguments *found)
{
	static const char *const ignored[] = {"address", "publish-binary", "socket"};
	int i = 1;

	*found = (struct shim_arguments){"", "", "", ""};
	for (; i < argc && argv[i][0] == '-'; i++) {
		const char *name = argv[i] + 1 + (argv[i][1] == '-');
		if (strcmp(name, "debug") == 0)
			continue;
		if (i + 1 >= argc)
			return false;
		if (strcmp(name, "namespace") == 0)
			found->namespace = argv[++i];
		else if (strcmp(name, "id") == 0)
			found->id = argv[++i];
		else if (strcmp(name, "bundle") == 0)
			found->bundle = argv[++i];
		else if (among(name, ignored, LENGTH(ignored)))
			i++;
		else
			return false;
	}
	if (i < argc)
		found->action = argv[i];
	return true;
}

static bool
is_name(const char *word)
{
	static const char characters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.";
	size_t length = strlen(word);

	return length > 0 && length <= MAX_ID && strspn(word, characters) == length && strcmp(word, ".") != 0 &&
	       strcmp(word, "..") != 0;
}

// DIRECTORY/NAME into `path`.
static bool
join(char *path, const char *directory, const char *name)
{
	int n = snprintf(path, PATH_MAX, "%s/%s", directory, name);
	return n > 0 && n < PATH_MAX;
}

// The file DIRECTORY/NAME as a string into `text`: its length, 0 if there is none, -1 where it can't be
// read or doesn't fit.
static ssize_t
read_text(const char *directory, const char *name, char *text, size_t size)
{
	char path[PATH_MAX];

	if (!join(path, directory, name))
		return -1;
	int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? (text[0] = '\0', 0) : -1;
	ssize_t n = read(fd, text, size);
	close(fd);
	if (n < 0 || (size_t)n >= size || memchr(text, '\0', (size_t)n) != NULL)
		return -1;
	text[n] = '\0';
	return n;
}

// Where the containers' state is, by the bundle's options as options.py writes them, into `root`.
static bool
read_state_root(const char *bundle, char *root)
{
	char text[PATH_MAX];
	ssize_t n = read_text(bundle, "options.json", text, sizeof text);

	strcpy(root, STATE_ROOT);
	if (n <= 0)
		return n == 0;
	if (strncmp(text, OPTIONS_BEGIN, strlen(OPTIONS_BEGIN)) != 0)
		return false;
	char *begin = text + strlen(OPTIONS_BEGIN), *end = strchr(begin, '"');
	if (end == NULL || strncmp(end, OPTIONS_END, strlen(OPTIONS_END)) != 0)
		return false;
	*end = '\0';
	if (*begin != '\0' && (*begin != '/' || strchr(begin, '\\') != NULL))
		return false;
	if (*begin != '\0')
		strcpy(root, begin);
	return true;
}

// Whether the state directory of the container is not there.
static bool
is_forgotten(const char *root, const char *namespace, const char *id)
{
	char of_namespace[PATH_MAX], path[PATH_MAX];
	struct stat st;

	return join(of_namespace, root, namespace) && join(path, of_namespace, id) && lstat(path, &st) < 0 &&
	       errno == ENOENT;
}

// Whether nothing is mounted at BUNDLE/NAME, which is tried and not looked up.
static bool
unmount(const char *bundle, const char *name)
{
	char path[PATH_MAX];

	if (!join(path, bundle, name))
		return false;
	while (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0)
		;
	return errno == EINVAL || errno == ENOENT;
}

// Whether there is no socket of a dead shim to be taken away, for which a lock has to be held.
static bool
socket_is_settled(const char *bundle)
{
	static const char scheme[] = "unix://";
	struct sockaddr_un name = {.sun_family = AF_UNIX};
	char text[256];
	ssize_t n = read_text(bundle, "address", text, sizeof text);

	if (n <= 0)
		return n == 0;
	if (strncmp(text, scheme, strlen(scheme)) != 0 || (size_t)n - strlen(scheme) >= sizeof name.sun_path)
		return false;
	strcpy(name.sun_path, text + strlen(scheme));
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return false;
	bool settled = connect(fd, (struct sockaddr *)&name, sizeof name) == 0 || errno == ENOENT;
	close(fd);
	return settled;
}

// The decimal number in BUNDLE/init.pid; 0 if there is no such file, -1 for one that holds something else.
static long
read_pid(const char *bundle)
{
	char text[32], *end;
	ssize_t n = read_text(bundle, "init.pid", text, sizeof text);

	if (n <= 0)
		return n;
	if (strspn(text, "0123456789") == 0)
		return -1;
	long pid = strtol(text, &end, 10);
	return *end == '\0' && pid <= INT_MAX ? pid : -1;
}

static uint8_t *
put_varint(uint8_t *at, uint8_t tag, uint64_t value)
{
	if (value == 0)  // protobuf's way to say it
		return at;
	*at++ = tag;
	for (; value >= 0x80; value >>= 7)
		*at++ = (uint8_t)(value | 0x80);
	*at++ = (uint8_t)value;
	return at;
}

// A containerd.task.v2.DeleteResponse on stdout.
static bool
answer_delete(long pid)
{
	enum { VARINT = 0, BYTES = 2 };
	uint8_t when[32], answer[64], *end = when, *at = answer;
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	end = put_varint(end, 1 << 3 | VARINT, (uint64_t)now.tv_sec);
	end = put_varint(end, 2 << 3 | VARINT, (uint64_t)now.tv_nsec);
	at = put_varint(at, 1 << 3 | VARINT, (uint64_t)pid);
	at = put_varint(at, 2 << 3 | VARINT, KILLED);
	at = put_varint(at, 3 << 3 | BYTES, (uint64_t)(end - when));
	memcpy(at, when, (size_t)(end - when));
	at += end - when;
	return write(1, answer, (size_t)(at - answer)) == at - answer;
}

// `delete` where nothing of the container is left.  Returns where something is, or may be.
static void
shim_delete(const struct shim_arguments *given)
{
	char here[PATH_MAX], root[PATH_MAX];
	const char *bundle = given->bundle;

	if (!is_name(given->namespace) || !is_name(given->id))
		return;
	if (*bundle == '\0')
		bundle = getcwd(here, sizeof here);
	if (bundle == NULL || !read_state_root(bundle, root) || !is_forgotten(root, given->namespace, given->id))
		return;
	long pid = read_pid(bundle);
	if (pid >= 0 && unmount(bundle, "rootfs") && unmount(bundle, "layers") && socket_is_settled(bundle))
		_exit(answer_delete(pid) ? 0 : 1);
}

// Where the template of this very program is, or would be, in these namespaces.
static bool
name_template(int exe, char *path, size_t size)
{
	struct stat file, pids, mounts;

	if (fstat(exe, &file) < 0 || stat("/proc/self/ns/pid", &pids) < 0 || stat("/proc/self/ns/mnt", &mounts) < 0)
		return false;
	int n = snprintf(path, size, TEMPLATES "/%jx-%jx-%jx%08jx-%jx-%jx", (uintmax_t)file.st_dev,
	                 (uintmax_t)file.st_ino, (uintmax_t)file.st_mtim.tv_sec, (uintmax_t)file.st_mtim.tv_nsec,
	                 (uintmax_t)pids.st_ino, (uintmax_t)mounts.st_ino);
	return n > 0 && (size_t)n < size;
}

static int
connect_template(const char *path)
{
	struct sockaddr_un name = {.sun_family = AF_UNIX};
	struct timeval limit = {.tv_sec = TEMPLATE_SECONDS};
	struct ucred peer;
	socklen_t length = sizeof peer;
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -1;
	strcpy(name.sun_path, path);
	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0 &&
	    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) == 0 &&
	    connect(fd, (struct sockaddr *)&name, sizeof name) == 0 &&
	    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 && peer.uid == geteuid())
		return fd;
	close(fd);
	return -1;
}

// `word` with its end behind `at`; NULL where there is no room.
static char *
put_word(char *at, const char *end, const char *word)
{
	size_t size = strlen(word) + 1;

	if (at == NULL || (size_t)(end - at) < size)
		return NULL;
	memcpy(at, word, size);
	return at + size;
}

// What the template needs to be us: the number of arguments, they, and the environment, each with its end;
// working directory and standard streams.
static bool
send_request(int fd, int argc, char **argv)
{
	static char text[60000];
	char *at = text, *end = text + sizeof text, number[16];
	int here = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	int fds[] = {here, 0, 1, 2};
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof fds)];
	} control = {0};

	snprintf(number, sizeof number, "%d", argc);
	at = put_word(at, end, number);
	for (int i = 0; i < argc; i++)
		at = put_word(at, end, argv[i]);
	for (char **variable = environ; *variable != NULL; variable++)
		at = put_word(at, end, *variable);
	if (here < 0 || at == NULL)
		return false;
	struct iovec data = {.iov_base = text, .iov_len = (size_t)(at - text)};
	struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control,
	                         .msg_controllen = sizeof control};
	control.header.cmsg_level = SOL_SOCKET;
	control.header.cmsg_type = SCM_RIGHTS;
	control.header.cmsg_len = CMSG_LEN(sizeof fds);
	memcpy(CMSG_DATA(&control.header), fds, sizeof fds);
	bool sent = sendmsg(fd, &message, MSG_NOSIGNAL) == (ssize_t)data.iov_len;
	close(here);
	return sent;
}

// `start` by the template.  Returns where there is none that takes it; the next may be left behind at `path`.
static void
shim_start(const char *path, int argc, char **argv)
{
	static const char accepted[] = "accepted";
	struct timeval forever = {0};
	char word[16];
	unsigned char status = 0;
	int fd = connect_template(path);

	if (fd < 0)
		return;
	if (!send_request(fd, argc, argv) || recv(fd, word, sizeof word, 0) != (ssize_t)strlen(accepted)) {
		close(fd);
		return;
	}
	// What it has read from our stdin is gone: from here on the answer is its own.
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &forever, sizeof forever);
	if (recv(fd, &status, 1, 0) != 1)
		die("the shim ended before it had answered");
	_exit(status);
}

static void
shim_without_python(int exe, int argc, char **argv)
{
	struct shim_arguments arguments;
	const char *own_core = getenv("SCHED_CORE");
	char path[sizeof ((struct sockaddr_un *)0)->sun_path];

	unsetenv(TEMPLATE_VARIABLE);
	if (!parse_shim_arguments(argc, argv, &arguments))
		return;
	if (strcmp(arguments.action, "delete") == 0)
		shim_delete(&arguments);
	if (strcmp(arguments.action, "start") != 0 || (own_core != NULL && *own_core != '\0') ||
	    !name_template(exe, path, sizeof path))
		return;
	shim_start(path, argc, argv);
	setenv(TEMPLATE_VARIABLE, path, 1);
}

// The arguments, and behind them room for those of another shim: what is forked from a template shows its own
// to who asks the kernel for them.
static char **
with_room(int argc, char **argv)
{
	enum { ROOM = 256 };
	char **words = calloc((size_t)argc + ROOM + 1, sizeof *words);

	if (words == NULL)
		die("out of memory");
	for (int i = 0; i < argc + ROOM; i++)
		words[i] = i < argc ? argv[i] : "";
	return words;
}

static int
without_room(int argc, char **argv)
{
	while (argc > 1 && argv[argc - 1][0] == '\0')
		argc--;
	return argc;
}
