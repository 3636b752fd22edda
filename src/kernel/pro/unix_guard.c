/* See unix_guard.h; the program is bpf/unix.bpf.c. */
#include "kernel/unix_guard.h"
#include "base/mem.h"
#include "kernel/bpf.h"
#include <bpf/bpf.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static int fail(char say[LAT_UNIX_GUARD_SAY], int error, const char *what)
{
	char why[LAT_UNIX_GUARD_SAY];

	snprintf(why, sizeof(why), "%s", say);
	snprintf(say, LAT_UNIX_GUARD_SAY, "%s: %s%s%.300s", what, strerror(-error), why[0] ? ": " : "", why);
	/* What a kernel without the hook, without its description (BTF), or without the right to it says. */
	return error == -EINVAL || error == -ESRCH || error == -ENOENT || error == -EPERM || error == -EBUSY ||
			       error == -ENOTSUP || error == -524 /* ENOTSUPP, the kernel's own */
		       ? -EOPNOTSUPP
		       : error;
}

/* May such a program be loaded at all? Of one that names no hook the kernel says EINVAL to who may, EPERM to who may not:
 * asked first, for libbpf reads the kernel's whole description before the load (40 ms). */
static bool may_load(void)
{
	LIBBPF_OPTS(bpf_prog_load_opts, opts, .expected_attach_type = BPF_LSM_CGROUP);
	const struct bpf_insn allow[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = 1 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	int fd = bpf_prog_load(BPF_PROG_TYPE_LSM, "lat_may", "GPL", allow, 2, &opts);

	if (fd >= 0)
		close(fd);
	return fd >= 0 || errno != EPERM;
}

int lat_unix_guard(const char *group, char say[LAT_UNIX_GUARD_SAY])
{
	lat_autoclose int at = open(group, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	lat_autoclose int program = -1;
	struct lat_bpf *bpf = NULL;
	int r;

	say[0] = '\0';
	if (at < 0) {
		r = -errno;
		snprintf(say, LAT_UNIX_GUARD_SAY, "%.300s: %s", group, strerror(-r));
		return r;
	}
	if (!may_load())
		return fail(say, -EPERM, "loading a program of a security hook");
	r = lat_bpf_open_embedded("unix", &bpf, say);
	if (r < 0)
		return fail(say, r, "opening the program for unix sockets");
	r = lat_bpf_load(bpf, say);
	if (r == 0) {
		program = lat_bpf_program(bpf, "lat_unix");
		r = program < 0 ? program : 0;
	}
	lat_bpf_free(bpf);
	if (r < 0)
		return fail(say, r, "loading the program for unix sockets");
	say[0] = '\0';
	r = bpf_prog_attach(program, at, BPF_LSM_CGROUP, BPF_F_ALLOW_MULTI);
	return r < 0 ? fail(say, -errno, "putting the program for unix sockets on the group") : 0;
}
