/* The kernel's own file systems, of which a command with the uid of root owns the files, capabilities
 * or not: cgroup.procs leads out of the group whose programs are the wall, a pin taken away from a
 * bpffs takes its program along, core_pattern names what runs as root outside. Each of their mounts,
 * wherever it is, is read-only here. The command cannot undo it: the mount namespace belongs to a
 * user namespace above its own, and the filter refuses the calls. */
#include "base/mem.h"
#include "launcher/setup.h"
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/mount.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>

#define LINE_MAX_BYTES (1 << 15) /* two paths, each character of which may take four, and options */

int lat_mounts_readonly(const char *path)
{
	struct mount_attr attr = { .attr_set = MOUNT_ATTR_RDONLY };

	return syscall(SYS_mount_setattr, AT_FDCWD, path, 0, &attr, sizeof(attr)) ? -errno : 0;
}

bool lat_kernelfs_is_cgroup(long type)
{
	return type == CGROUP_SUPER_MAGIC || type == CGROUP2_SUPER_MAGIC;
}

/* Takes \ooo back to the character, in place. */
static void decode(char *text)
{
	char *out = text;

	while (*text) {
		if (text[0] == '\\' && text[1] && text[2] && text[3]) {
			*out++ = (char)((text[1] - '0') << 6 | (text[2] - '0') << 3 | (text[3] - '0'));
			text += 4;
		} else {
			*out++ = *text++;
		}
	}
	*out = '\0';
}

/* A line of mountinfo (proc(5)): ID PARENT DEVICE ROOT POINT OPTIONS [FIELD]... - TYPE ... */
static int one(char *line, int (*each)(void *ctx, const char *point, const char *type), void *ctx)
{
	char *rest = line, *point = NULL, *type = strstr(line, " - ");

	for (int i = 0; i < 5 && rest; i++)
		point = strsep(&rest, " ");
	if (!rest || !type)
		return -EPROTO;
	type += 3;
	type[strcspn(type, " ")] = '\0';
	decode(point);
	return each(ctx, point, type);
}

int lat_kernelfs_each(int (*each)(void *ctx, const char *point, const char *type), void *ctx)
{
	static char text[LINE_MAX_BYTES];
	lat_autoclose int fd = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
	size_t have = 0;
	ssize_t got;
	int r = 0;

	if (fd < 0)
		return -errno;
	while (!r && (got = read(fd, text + have, sizeof(text) - have)) > 0) {
		char *line = text, *end;

		have += (size_t)got;
		while (!r && (end = memchr(line, '\n', have))) {
			*end++ = '\0';
			r = one(line, each, ctx);
			have -= (size_t)(end - line);
			line = end;
		}
		memmove(text, line, have);
		if (!r && have == sizeof(text))
			r = -E2BIG;
	}
	return r ? r : got < 0 ? -errno : 0;
}

/* No path leads to it (something else covers it), or none that the command may go. */
static bool out_of_reach(int error)
{
	return error == -EINVAL || error == -ENOENT || error == -ENOTDIR || error == -EACCES;
}

/* Pins are another's tables, and can be read there: an empty folder instead. */
static int hide_bpf(struct lat_setup *s, const char *point)
{
	struct statfs fs;
	struct stat st;

	if (statfs(point, &fs) || fs.f_type != BPF_FS_MAGIC || stat(point, &st) || !S_ISDIR(st.st_mode))
		return 0;
	if (mount("lattice", point, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC,
		    "mode=555,size=4k"))
		return lat_setup_fail(s, -errno, "mounts: hiding %.150s", point);
	return 0;
}

static int protect_mount(void *ctx, const char *point, const char *type)
{
	static const char *const types[] = { "cgroup", "cgroup2", "bpf", "proc", "sysfs", "debugfs",
		"tracefs", "securityfs", "configfs", "pstore", "efivarfs", "binfmt_misc", "resctrl",
		"fusectl", "selinuxfs", "smackfs" };
	struct lat_setup *s = ctx;
	bool found = false;
	int r;

	for (size_t i = 0; i < LAT_ARRAY_SIZE(types) && !found; i++)
		found = !strcmp(type, types[i]);
	/* Our own /proc is written to (of the command's own processes), but for a few files. */
	if (!found || !strcmp(point, "/proc"))
		return 0;
	r = lat_mounts_readonly(point);
	if (r && !out_of_reach(r))
		return lat_setup_fail(s, r, "mounts: making %.150s read-only", point);
	return strcmp(type, "bpf") ? 0 : hide_bpf(s, point);
}

int lat_kernelfs_protect(struct lat_setup *s)
{
	static const char *const paths[] = { "/proc/sys", "/proc/sysrq-trigger", "/proc/irq",
		"/proc/bus", "/proc/fs", "/proc/acpi", "/proc/asound", "/proc/driver", "/proc/mtrr",
		"/proc/scsi" };
	struct mount_attr attr = { .attr_set = MOUNT_ATTR_RDONLY };
	int r;

	for (size_t i = 0; i < LAT_ARRAY_SIZE(paths); i++) {
		r = lat_mounts_protect(s, paths[i]);
		if (r)
			return r;
	}
	if (syscall(SYS_mount_setattr, AT_FDCWD, "/sys", AT_RECURSIVE, &attr, sizeof(attr)) &&
		errno != EINVAL &&
		errno != ENOENT) /* EINVAL: not a mount, so nothing to write there */
		return lat_setup_fail(s, -errno, "mounts: making /sys read-only");
	r = lat_kernelfs_each(protect_mount, s);
	return r && !s->failure.type ? lat_setup_fail(s, r, "mounts: reading /proc/self/mountinfo") : r;
}
