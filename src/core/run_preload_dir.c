/* The folder with the sockets of preload mode. A keeper, which does nothing else, takes it away when the supervisor was killed. */
#include "core/run_preload.h"
#include "base/mem.h"
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

static void remove_all(const char *dir)
{
	static const char *const leaves[] = { "tell", "ask", "dns" };
	char path[LAT_SHIM_PATH_MAX + 8];

	for (size_t i = 0; i < LAT_ARRAY_SIZE(leaves); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, leaves[i]);
		unlink(path);
	}
	rmdir(dir);
}

_Noreturn static void keep(const char *dir, pid_t of)
{
	struct pollfd p = { (int)syscall(SYS_pidfd_open, of, 0), POLLIN, 0 };

	setsid(); /* signals of the terminal are not for us */
	prctl(PR_SET_NAME, "lattice-keeper");
	if (p.fd < 0)
		_exit(0);
	if (p.fd > 0) {
		dup2(p.fd, 0);
		p.fd = 0;
	}
	syscall(SYS_close_range, 1, ~0U, 0);
	while (poll(&p, 1, -1) < 0 && errno == EINTR) {
	}
	remove_all(dir);
	_exit(0);
}

int lat_preload_dir_new(struct lat_preload *p)
{
	const char *const bases[] = { getenv("XDG_RUNTIME_DIR"), getenv("TMPDIR"), "/tmp" };
	pid_t us = getpid();
	int r = -ENOENT;

	for (size_t i = 0; i < LAT_ARRAY_SIZE(bases) && !p->dir[0]; i++) {
		char dir[LAT_SHIM_PATH_MAX];

		if (!bases[i] || bases[i][0] != '/' ||
			snprintf(dir, sizeof(dir), "%s/lattice-XXXXXX", bases[i]) >= (int)sizeof(dir))
			continue;
		if (mkdtemp(dir))
			memcpy(p->dir, dir, sizeof(dir));
		else
			r = -errno;
	}
	if (!p->dir[0])
		return r;
	p->keeper = fork();
	if (p->keeper == 0)
		keep(p->dir, us);
	if (p->keeper < 0) {
		r = -errno;
		p->keeper = 0;
		return r;
	}
	return 0;
}

void lat_preload_dir_remove(struct lat_preload *p)
{
	if (p->dir[0])
		remove_all(p->dir);
	if (p->keeper > 0) {
		kill(p->keeper, SIGKILL);
		while (waitpid(p->keeper, NULL, 0) < 0 && errno == EINTR) {
		}
	}
	p->keeper = 0;
}

int lat_preload_listen(const struct lat_preload *p, const char *leaf, int type)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	lat_autoclose int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int on = 1;

	snprintf(at.sun_path, sizeof(at.sun_path), "%s/%s", p->dir, leaf);
	if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0)
		return -errno;
	if (type == SOCK_DGRAM ? setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) < 0 : listen(fd, 1024) < 0)
		return -errno;
	return lat_take_fd(&fd);
}
