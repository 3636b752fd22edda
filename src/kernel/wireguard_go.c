/* wireguard-go as a child, with its control socket on a mount that only the two of us have. */
#include "base/clock.h"
#include "base/mem.h"
#include "kernel/wireguard.h"
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/openat2.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#define LOG_SIZE 65536
#define WAIT_NS 10000000000ull
/* wireguard-go makes its socket in /var/run/wireguard: our file system lies over /var/run, with that folder in it. */
#define RUN "/var/run"
#define FOLDER "wireguard"

static int pidfd_of(pid_t pid)
{
	int fd = (int)syscall(SYS_pidfd_open, pid, 0);

	return fd < 0 ? -errno : fd;
}

static bool listens(int dir, const char *name)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	lat_autoclose int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	snprintf(at.sun_path, sizeof(at.sun_path), "/proc/self/fd/%d/%s.sock", dir, name);
	return fd >= 0 && connect(fd, (struct sockaddr *)&at, sizeof(at)) == 0;
}

/* A file system in memory, mounted nowhere yet, with the socket's folder. */
static int make_mount(int *mount, int *dir)
{
	lat_autoclose int fs = fsopen("tmpfs", FSOPEN_CLOEXEC), m = -1;
	int d;

	if (fs < 0 || fsconfig(fs, FSCONFIG_SET_STRING, "mode", "0700", 0) < 0 ||
		fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return -errno;
	m = fsmount(fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
	if (m < 0 || mkdirat(m, FOLDER, 0700) < 0)
		return -errno;
	d = openat(m, FOLDER, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (d < 0)
		return -errno;
	*mount = lat_take_fd(&m);
	*dir = d;
	return 0;
}

/* Without the privilege for that: the host's folder. */
static int shared_dir(struct lat_wg_go *go, const char *name)
{
	if (mkdir(RUN "/" FOLDER, 0700) < 0 && errno != EEXIST)
		return -errno;
	go->dir = open(RUN "/" FOLDER, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (go->dir < 0)
		return -errno;
	if (listens(go->dir, name))
		return -EADDRINUSE;
	snprintf(go->shared, sizeof(go->shared), "%s", name);
	return 0;
}

/* Of fixed size: it can neither fill memory nor end the child with SIGPIPE when we are gone. */
static int make_log(void)
{
	lat_autoclose int fd = memfd_create("wireguard-go", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0 || ftruncate(fd, LOG_SIZE) < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK) < 0)
		return -errno;
	return lat_take_fd(&fd);
}

/* ---- in the child, between fork and exec: no memory, no locks ---- */

static void no_core(void)
{
	struct rlimit none = { 1, 1 }; /* 1, not 0: that stops a core to a pipe as well */
	int fd = open("/proc/self/coredump_filter", O_WRONLY | O_CLOEXEC);

	setrlimit(RLIMIT_CORE, &none);
	if (fd >= 0) {
		if (write(fd, "0", 1) < 0) {
			/* the limit holds as well */
		}
		close(fd);
	}
}

static int private_run(int mount)
{
	if (unshare(CLONE_NEWNS) < 0 || mount_setattr(AT_FDCWD, "/", AT_RECURSIVE,
						&(struct mount_attr){ .propagation = MS_PRIVATE }, sizeof(struct mount_attr)) < 0 ||
		/* often a symbolic link to /run */
		move_mount(mount, "", AT_FDCWD, RUN, MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS) < 0)
		return -errno;
	return 0;
}

/* What root gets of an exec is within what it has, once no_new_privs is set. */
static int drop_capabilities(void)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2] = { 0 };

	for (int cap = 0; cap <= 63; cap++) {
		if (cap != CAP_NET_ADMIN && prctl(PR_CAPBSET_DROP, cap) < 0)
			break; /* past the last one, or without CAP_SETPCAP */
	}
	data[0].effective = data[0].permitted = 1u << CAP_NET_ADMIN;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || syscall(SYS_capset, &header, data) < 0)
		return -errno;
	return 0;
}

_Noreturn static void become(const char *program, const char *name, int mount, int log)
{
	char *argv[] = { (char *)(uintptr_t)program, (char *)"-f", (char *)(uintptr_t)name, NULL };
	char *envp[] = { (char *)"LOG_LEVEL=error", (char *)"WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD=1", NULL };
	int null = open("/dev/null", O_RDWR), r = mount >= 0 ? private_run(mount) : 0;
	sigset_t none;

	no_core();
	if (r == 0)
		r = drop_capabilities();
	if (r < 0) {
		dprintf(log, "a mount namespace of its own, and few capabilities: %s\n", strerror(-r));
		_exit(126);
	}
	setsid();
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	for (int s = 1; s < 32; s++)
		signal(s, SIG_DFL);
	log = fcntl(log, F_DUPFD_CLOEXEC, 10); /* 0 to 2 may be among the others */
	if (dup2(null, 0) < 0 || dup2(log, 1) < 0 || dup2(log, 2) < 0)
		_exit(126);
	close_range(3, ~0u, 0);
	if (chdir("/") < 0)
		_exit(126);
	umask(077);
	execve(program, argv, envp);
	dprintf(2, "%s: %s\n", program, strerror(errno));
	_exit(127);
}

/* ---- in the parent ---- */

/* Until it takes connections, or ends. */
static int await_socket(const struct lat_wg_go *go, const char *name)
{
	uint64_t until_ns = lat_now_ns() + WAIT_NS;
	lat_autoclose int watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	char path[32], events[1024];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", go->dir);
	if (watch < 0 || inotify_add_watch(watch, path, IN_CREATE | IN_ATTRIB) < 0)
		return -errno;
	while (!listens(go->dir, name)) {
		struct pollfd p[] = { { go->process, POLLIN, 0 }, { watch, POLLIN, 0 } };
		uint64_t now = lat_now_ns();

		if (now > until_ns)
			return -ETIME;
		/* The socket is there before it listens, and that makes no event: so look again soon, too. */
		if (poll(p, 2, 20) < 0 && errno != EINTR)
			return -errno;
		if (p[0].revents)
			return -EXDEV;
		if (p[1].revents && read(watch, events, sizeof(events)) < 0 && errno != EAGAIN)
			return -errno;
	}
	return 0;
}

int lat_wg_go_start(const char *program, const char *name, struct lat_wg_go *out)
{
	struct lat_wg_go go = { -1, -1, -1, -1, "" };
	lat_autoclose int mount = -1;
	int r = make_mount(&mount, &go.dir);

	if (r == -EPERM)
		r = shared_dir(&go, name);
	if (r == 0) {
		go.log = make_log();
		r = go.log < 0 ? go.log : 0;
	}
	if (r == 0) {
		go.pid = fork();
		if (go.pid == 0)
			become(program, name, mount, go.log);
		r = go.pid < 0 ? -errno : 0;
	}
	if (r == 0) {
		go.process = pidfd_of(go.pid);
		r = go.process < 0 ? go.process : await_socket(&go, name);
	}
	if (r == -EXDEV) { /* what it said is all that is left of it */
		struct lat_wg_go dead = { -1, -1, -1, lat_take_fd(&go.log), "" };

		lat_wg_go_kill(&go);
		*out = dead;
	} else if (r < 0) {
		lat_wg_go_kill(&go);
	} else {
		*out = go;
	}
	return r;
}

int lat_wg_go_adopt(pid_t pid, const char *name, struct lat_wg_go *out)
{
	struct open_how how = { .flags = O_PATH | O_DIRECTORY | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT };
	struct lat_wg_go go = { pid, -1, -1, -1, "" };
	lat_autoclose int root = -1;
	char path[64];

	go.process = pidfd_of(pid);
	if (go.process < 0)
		return -ESRCH;
	snprintf(path, sizeof(path), "/proc/%d/root", pid);
	root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	/* In its root: /var/run is a symbolic link to an absolute path. */
	go.dir = (int)syscall(SYS_openat2, root, &(RUN "/" FOLDER)[1], &how, sizeof(how));
	if (go.dir < 0 || !listens(go.dir, name)) {
		lat_wg_go_release(&go);
		return -ESRCH;
	}
	*out = go;
	return 0;
}

void lat_wg_go_end(const struct lat_wg_go *go)
{
	struct pollfd p = { go->process, POLLIN, 0 };

	syscall(SYS_pidfd_send_signal, go->process, SIGKILL, NULL, 0);
	for (int tries = 0; tries < 8 && poll(&p, 1, 5000) < 0 && errno == EINTR; tries++) {
	} /* reaped or not: its port and its device are free (its own SIGCHLD may interrupt us) */
}

void lat_wg_go_kill(struct lat_wg_go *go)
{
	if (go->process >= 0) {
		lat_wg_go_end(go);
		while (waitid(P_PIDFD, (id_t)go->process, &(siginfo_t){ 0 }, WEXITED) < 0 && errno == EINTR) {
		} /* one that we adopted is not our child: ECHILD */
	} else if (go->pid > 0) {
		kill(go->pid, SIGKILL);
		while (waitpid(go->pid, NULL, 0) < 0 && errno == EINTR) {
		}
	}
	if (go->dir >= 0 && go->shared[0]) {
		char socket_name[IFNAMSIZ + 8];

		snprintf(socket_name, sizeof(socket_name), "%s.sock", go->shared);
		unlinkat(go->dir, socket_name, 0);
	}
	lat_wg_go_release(go);
}

void lat_wg_go_release(struct lat_wg_go *go)
{
	lat_close(&go->process);
	lat_close(&go->dir);
	lat_close(&go->log);
	go->pid = -1;
}

void lat_wg_go_said(const struct lat_wg_go *go, char *buf, size_t size)
{
	char text[8192], *save = NULL;
	ssize_t n = go->log >= 0 ? pread(go->log, text, sizeof(text) - 1, 0) : 0;

	buf[0] = 0;
	text[n > 0 ? n : 0] = 0;
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		bool plain = true; /* its banner is drawn with lines */

		for (const char *p = line; *p; p++)
			plain = plain && *p >= ' ' && *p < 0x7f;
		if (plain)
			snprintf(buf, size, "%s", line);
	}
}
