/* The view of the files: private to the sandbox, with a /proc of its own, name resolution pointed
 * at the supervisor, and the paths of the spec hidden or made read-only. Works on a read-only root:
 * nothing is written to it.
 *
 * Replaced files are bind mounts from a small tmpfs that is mounted over /proc while it is filled
 * and then taken away: the binds keep it alive, no path leads to it. */
#include "base/mem.h"
#include "launcher/setup.h"
#include <fcntl.h>
#include <linux/mount.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>

#define STAGE "/proc"

/* The host's nsswitch.conf with its hosts line pointed at files and DNS: other name services ask
 * daemons outside. */
static void plan_nsswitch(struct lat_setup *s)
{
	static const char ours[] = "hosts: files dns\n";
	lat_autoclose int fd = open("/etc/nsswitch.conf", O_RDONLY | O_CLOEXEC);
	char text[LAT_FILE_TEXT - sizeof(ours) - 1];
	ssize_t got = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);
	size_t used;

	strcpy(s->nsswitch, ours);
	used = strlen(ours);
	text[got > 0 ? got : 0] = '\0';
	for (char *line = text; *line;) {
		size_t len = strcspn(line, "\n"), skip = strspn(line, " \t");

		if (strncmp(line + skip, "hosts:", 6)) {
			memcpy(s->nsswitch + used, line, len);
			used += len;
			s->nsswitch[used++] = '\n';
		}
		line += len + (line[len] == '\n');
	}
	s->nsswitch[used] = '\0';
}

void lat_mounts_plan(struct lat_setup *s)
{
	struct utsname u;

	plan_nsswitch(s);
	snprintf(s->hosts, sizeof(s->hosts),
		"127.0.0.1 localhost%s%s\n::1 localhost ip6-localhost ip6-loopback\n",
		uname(&u) ? "" : " ", uname(&u) ? "" : u.nodename);
	if (!getcwd(s->cwd, sizeof(s->cwd)))
		s->cwd[0] = '\0';
}

static int bind_over(const char *from, const char *to)
{
	return mount(from, to, NULL, MS_BIND, NULL) ? -errno : 0;
}

static int stage_file(const char *path, const char *text)
{
	lat_autoclose int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444);
	size_t len = strlen(text);

	if (fd < 0)
		return -errno;
	return write(fd, text, len) == (ssize_t)len ? 0 : errno ? -errno : -EIO;
}

/* Without a resolv.conf (or with a link to nowhere) there is nothing to bind over: then /etc is
 * shown through a read-only overlay that has one. */
static int supply_resolv_conf(struct lat_setup *s)
{
	int r;

	if (!access("/etc/resolv.conf", F_OK) || errno != ENOENT)
		return 0;
	r = mkdir(STAGE "/etc", 0755) ? -errno : stage_file(STAGE "/etc/resolv.conf", "");
	if (r)
		return lat_setup_fail(s, r, "mounts: filling the tmpfs");
	if (mount("overlay", "/etc", "overlay", MS_RDONLY | MS_NOSUID | MS_NODEV,
		    "lowerdir=" STAGE "/etc:/etc"))
		lat_setup_warn(s,
			"there is no /etc/resolv.conf here and no overlay to supply one (%s): "
			"names will "
			"not resolve inside",
			strerrordesc_np(errno));
	else
		lat_setup_warn(s, "there is no /etc/resolv.conf here: /etc is a read-only overlay "
				  "with one inside");
	return 0;
}

/* A file that programs need to resolve names: bound over the host's, through a symbolic link if it
 * is one. */
static int replace(struct lat_setup *s, const char *staged, const char *path, const char *text)
{
	int r = stage_file(staged, text);

	if (!r)
		r = bind_over(staged, path);
	if (r == -ENOENT)
		return 0;
	return r ? lat_setup_fail(s, r, "mounts: replacing %s", path) : 0;
}

static int hide(struct lat_setup *s, const char *path)
{
	struct stat st;
	int r;

	if (stat(path, &st))
		return errno == ENOENT || errno == ENOTDIR || errno == EACCES
			       ? 0
			       : lat_setup_fail(s, -errno, "mounts: hiding %s", path);
	r = bind_over(S_ISDIR(st.st_mode) ? STAGE "/nothing.d" : STAGE "/nothing", path);
	return r ? lat_setup_fail(s, r, "mounts: hiding %s", path) : 0;
}

int lat_mounts_protect(struct lat_setup *s, const char *path)
{
	int r = bind_over(path, path);

	if (r == -ENOENT || r == -EACCES) /* nothing there, or no way there */
		return 0;
	if (!r)
		r = lat_mounts_readonly(path);
	return r ? lat_setup_fail(s, r, "mounts: making %s read-only", path) : 0;
}

/* The staged files, then read-only as a whole, then bound where they belong: each bind inherits
 * read-only. */
static int bind_files(struct lat_setup *s)
{
	/* A command with the uid of root owns them: what an agent reads next, and its socket. */
	static const char *const own[] = { "/etc/lattice", "/run/lattice" };
	/* Whoever may open them (root, the group kvm) has packets of its own making, or a guest's sockets. */
	static const char *const devices[] = { "/dev/net/tun", "/dev/vhost-net", "/dev/vhost-vsock" };
	const struct lat_launch_spec *spec = s->spec;
	int r;

	if (mount("lattice", STAGE, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=755,size=64k"))
		return lat_setup_fail(s, -errno, "mounts: tmpfs");
	r = stage_file(STAGE "/nothing", "");
	if (!r && mkdir(STAGE "/nothing.d", 0555))
		r = -errno;
	if (r)
		return lat_setup_fail(s, r, "mounts: filling the tmpfs");
	r = supply_resolv_conf(s);
	if (!r)
		r = replace(s, STAGE "/resolv.conf", "/etc/resolv.conf",
			"nameserver " LAT_TRAP_DNS "\n");
	if (!r)
		r = replace(s, STAGE "/hosts", "/etc/hosts", s->hosts);
	if (!r && !access("/etc/nsswitch.conf", F_OK))
		r = replace(s, STAGE "/nsswitch.conf", "/etc/nsswitch.conf", s->nsswitch);
	for (size_t i = 0; i < LAT_ARRAY_SIZE(own) && !r; i++)
		r = lat_mounts_protect(s, own[i]);
	for (size_t i = 0; i < spec->readonly_count && !r; i++)
		r = lat_mounts_protect(s, spec->readonly[i]);
	for (size_t i = 0; i < LAT_ARRAY_SIZE(devices) && !r; i++)
		r = hide(s, devices[i]);
	for (size_t i = 0; i < spec->hide_count && !r; i++)
		r = hide(s, spec->hide[i]);
	if (r)
		return r;
	if (mount(NULL, STAGE, NULL, MS_REMOUNT | MS_RDONLY, NULL))
		return lat_setup_fail(s, -errno, "mounts: tmpfs read-only");
	if (umount2(STAGE, MNT_DETACH))
		return lat_setup_fail(s, -errno, "mounts: taking the tmpfs away");
	return 0;
}

int lat_mounts_set(struct lat_setup *s)
{
	struct mount_attr nosuid = { .attr_set = MOUNT_ATTR_NOSUID };
	int r;

	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		return lat_setup_fail(s, -errno, "mounts: making them private");
	/* No program gains anything here; without this, one with effective file capabilities (ping) would not even start. */
	if (syscall(SYS_mount_setattr, AT_FDCWD, "/", AT_RECURSIVE, &nosuid, sizeof(nosuid)))
		return lat_setup_fail(s, -errno, "mounts: making them nosuid");
	r = bind_files(s);
	if (r)
		return r;
	if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL))
		return lat_setup_fail(s, -errno,
			"mounts: /proc of the sandbox (inside a container its /proc must not be "
			"masked)");
	r = lat_kernelfs_protect(s);
	if (r)
		return r;
	/* The old working directory may lie below what is hidden now, or have no path here: then it may be
	 * in a mount that none of this has touched. */
	if (!s->cwd[0] || chdir(s->cwd)) {
		lat_setup_warn(s, "working directory %.100s cannot be entered inside",
			s->cwd[0] ? s->cwd : "(it has been removed)");
		if (!s->cwd[0] && chdir("/"))
			return lat_setup_fail(s, -errno, "entering /");
	}
	return 0;
}
