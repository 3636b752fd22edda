/* Who the command is. Two user namespaces: the outer one belongs to init and owns the network
 * namespace; the inner one holds the command, which has no capability over anything above. Ids keep
 * their numbers on the way in: the caller's uid and gid, and, where the caller may map more (root),
 * all that its own namespace has. Supplementary groups stay as they are (setgroups is denied);
 * without a map they show as the overflow group but keep their rights. */
#include "base/mem.h"
#include "launcher/setup.h"
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

/* The ranges of the caller's own namespace, each mapped to itself. False when they do not fit. */
static bool own_ranges(const char *path, char *out, size_t size)
{
	lat_autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);
	char text[LAT_MAP_TEXT], *line = text;
	size_t used = 0;
	ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (got <= 0)
		return false;
	text[got] = '\0';
	while (*line) {
		unsigned long inside, outside, count;
		int eaten = 0;

		if (sscanf(line, " %lu %lu %lu %n", &inside, &outside, &count, &eaten) < 3 ||
			!eaten)
			return false;
		used += (size_t)snprintf(
			out + used, size - used, "%lu %lu %lu\n", inside, inside, count);
		if (used >= size)
			return false;
		line += eaten;
	}
	return used > 0;
}

static bool may_map(void)
{
	struct __user_cap_header_struct h = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct d[2];
	uint32_t need = 1u << CAP_SETUID | 1u << CAP_SETGID;

	if (syscall(SYS_capget, &h, d))
		return false;
	/* The files in /proc of one that is not dumpable (file capabilities make it so) are root's. */
	if (prctl(PR_GET_DUMPABLE) != 1)
		need |= 1u << CAP_DAC_OVERRIDE;
	return (d[0].effective & need) == need &&
	       (d[CAP_TO_INDEX(CAP_SETFCAP)].effective & CAP_TO_MASK(CAP_SETFCAP));
}

int lat_identity_plan(struct lat_setup *s)
{
	s->uid = geteuid();
	s->gid = getegid();
	if (s->uid != getuid() || s->gid != getgid())
		return lat_setup_fail(
			s, -EPERM, "real and effective ids differ: lattice must not be set-uid");
	s->whole_map = may_map() &&
		       own_ranges("/proc/self/uid_map", s->uid_map, sizeof(s->uid_map)) &&
		       own_ranges("/proc/self/gid_map", s->gid_map, sizeof(s->gid_map));
	if (!s->whole_map) {
		snprintf(s->uid_map, sizeof(s->uid_map), "%u %u 1\n", s->uid, s->uid);
		snprintf(s->gid_map, sizeof(s->gid_map), "%u %u 1\n", s->gid, s->gid);
	}
	return 0;
}

static int write_maps(struct lat_setup *s, const char *proc)
{
	const char *const names[] = { "setgroups", "uid_map", "gid_map" };
	const char *const texts[] = { "deny", s->uid_map, s->gid_map };

	for (size_t i = 0; i < LAT_ARRAY_SIZE(names); i++) {
		char path[64];
		int r;

		snprintf(path, sizeof(path), "%s/%s", proc, names[i]);
		r = lat_write_file(path, texts[i]);
		if (r)
			return lat_setup_fail(s, r, "user namespace: writing %s", path);
	}
	return 0;
}

int lat_identity_outer(struct lat_setup *s)
{
	/* A supervisor that is not dumpable leaves us files in /proc that only root may write. */
	if (prctl(PR_SET_DUMPABLE, 1))
		return lat_setup_fail(s, -errno, "prctl(PR_SET_DUMPABLE)");
	if (!s->whole_map)
		return write_maps(s, "/proc/self");
	/* More than the own id can only be mapped from outside: the supervisor has done it
	 * (lat_launch). */
	return 0;
}

int lat_identity_inner(struct lat_setup *s, pid_t pid)
{
	char proc[32];

	snprintf(proc, sizeof(proc), "/proc/%d", pid);
	return write_maps(s, proc);
}

int lat_identity_drop(struct lat_setup *s)
{
	const unsigned long locked = SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP |
				     SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_NO_CAP_AMBIENT_RAISE |
				     SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED;
	struct __user_cap_header_struct h = { _LINUX_CAPABILITY_VERSION_3, 0 };
	const struct __user_cap_data_struct none[2] = { 0 };

	if (prctl(PR_SET_SECUREBITS, locked))
		return lat_setup_fail(s, -errno, "locking the secure bits");
	for (int cap = 0; prctl(PR_CAPBSET_READ, cap) >= 0; cap++)
		if (prctl(PR_CAPBSET_DROP, cap))
			return lat_setup_fail(s, -errno, "dropping capability %d", cap);
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) ||
		syscall(SYS_capset, &h, none))
		return lat_setup_fail(s, -errno, "dropping capabilities");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return lat_setup_fail(s, -errno, "prctl(PR_SET_NO_NEW_PRIVS)");
	return 0;
}
