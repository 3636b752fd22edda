/* Probes: control groups that the caller may divide, and BPF programs that it may load. See caps.h. */
#include "kernel/caps_impl.h"
#include "base/mem.h"
#include "kernel/cgroup.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/sched.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* ---- control groups ---- */

/* Where a hierarchy is mounted (type "cgroup" with `option`, or "cgroup2"): 0, -ENOENT. */
static int find_mount(const char *type, const char *option, char *where, size_t size)
{
	FILE *f = fopen("/proc/self/mounts", "re");
	char line[1024], dir[512], kind[32], options[256];
	int r = -ENOENT;

	if (!f)
		return -errno;
	while (r < 0 && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%*s %511s %31s %255s", dir, kind, options) != 3 || strcmp(kind, type) != 0)
			continue;
		if (option && !strstr(options, option))
			continue;
		if (snprintf(where, size, "%s", dir) < (int)size)
			r = 0;
	}
	fclose(f);
	return r;
}

/* Our own group in the hierarchy whose controllers field in /proc/self/cgroup contains `controllers` ("" is v2). */
static int own_group(const char *controllers, char *path, size_t size)
{
	FILE *f = fopen("/proc/self/cgroup", "re");
	char line[1024];
	int r = -ENOENT;

	if (!f)
		return -errno;
	while (r < 0 && fgets(line, sizeof(line), f)) {
		char *names = strchr(line, ':'), *group = names ? strchr(names + 1, ':') : NULL;

		if (!group)
			continue;
		*group++ = '\0';
		group[strcspn(group, "\n")] = '\0';
		names++;
		if (controllers[0] ? strstr(names, controllers) != NULL : names[0] == '\0')
			r = snprintf(path, size, "%s", group) < (int)size ? 0 : -ENAMETOOLONG;
	}
	fclose(f);
	return r;
}

/* Makes a group below our own and removes it again. */
static int divide(const char *mount, const char *controllers)
{
	char group[512], dir[1200];
	int r = own_group(controllers, group, sizeof(group));

	if (r < 0)
		return r;
	snprintf(dir, sizeof(dir), "%s%s/lattice-probe-%d", mount, strcmp(group, "/") ? group : "", (int)getpid());
	if (mkdir(dir, 0755) < 0)
		return -errno;
	rmdir(dir);
	return 0;
}

int lat_cap_cgroup2(char *detail, size_t size)
{
	char where[512], file[600], text[256] = "";
	lat_autoclose int fd = -1;
	int r = find_mount("cgroup2", NULL, where, sizeof(where));
	ssize_t n;

	if (r < 0)
		return r;
	snprintf(file, sizeof(file), "%s/cgroup.controllers", where);
	fd = open(file, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);
	text[n > 0 ? (size_t)n : 0] = '\0';
	text[strcspn(text, "\n")] = '\0';
	snprintf(detail, size, "controllers: %s", text[0] ? text : "none");
	return divide(where, "");
}

int lat_cap_cgroup1(char *detail, size_t size)
{
	static const char *const wanted[] = { "memory", "pids", "cpu", "blkio" };
	char where[512];
	int r = -ENOENT;

	for (size_t i = 0; i < LAT_ARRAY_SIZE(wanted); i++) {
		size_t used = strlen(detail);
		int one = find_mount("cgroup", wanted[i], where, sizeof(where));

		if (one < 0)
			continue;
		snprintf(detail + used, size - used, "%s%s", used ? " " : "controllers: ", wanted[i]);
		one = divide(where, wanted[i]);
		if (r != 0)
			r = one;
	}
	return r;
}

/* ---- BPF ---- */

static int sys_bpf(int command, union bpf_attr *attr)
{
	long r = syscall(SYS_bpf, command, attr, sizeof(*attr));

	return r < 0 ? -errno : (int)r;
}

/* A program that returns `value`. */
static int load(uint32_t type, uint32_t attach, int32_t value)
{
	const struct bpf_insn code[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = value },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.prog_type = type;
	attr.expected_attach_type = attach;
	attr.insns = (uintptr_t)code;
	attr.insn_cnt = LAT_ARRAY_SIZE(code);
	attr.license = (uintptr_t)"GPL";
	return sys_bpf(BPF_PROG_LOAD, &attr);
}

int lat_cap_bpf_tc(char *detail, size_t size)
{
	lat_autoclose int fd = load(BPF_PROG_TYPE_SCHED_CLS, 0, 1);

	return fd < 0 ? fd : 0;
}

/* Does a member of the group get the error of a program that refuses each connect? Born into the group: to be moved
 * there takes a grace period of RCU, 15 ms and more. */
static int refused_in(int group)
{
	const struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(9), .sin_addr = { htonl(INADDR_LOOPBACK) } };
	struct clone_args args = { .flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = (uint64_t)group };
	long pid = syscall(SYS_clone3, &args, sizeof(args));
	int fd, status;

	if (pid < 0)
		return -errno;
	if (pid == 0) {
		fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		_exit(fd < 0 || connect(fd, (const struct sockaddr *)&to, sizeof(to)) < 0 ? errno : 0);
	}
	while (waitpid((pid_t)pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) && WEXITSTATUS(status) == EPERM ? 0 : -ENOMSG;
}

int lat_cap_bpf_cgroup(char *detail, size_t size)
{
	lat_autoclose int program = load(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT, 0), dir = -1;
	struct lat_cgroup_options options = { .programs = true };
	char name[32], say[LAT_CGROUP_SAY] = "";
	struct lat_cgroup *group;
	union bpf_attr attr;
	int r;

	if (program < 0) {
		snprintf(detail, size, "the program cannot be loaded: %s", strerror(-program));
		return program;
	}
	snprintf(name, sizeof(name), "probe-%d", (int)getpid());
	options.name = name;
	r = lat_cgroup_make(&options, &group, say);
	if (r < 0) {
		snprintf(detail, size, "%.*s", (int)size - 1, say);
		return r;
	}
	dir = open(lat_cgroup_path(group), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	memset(&attr, 0, sizeof(attr));
	attr.target_fd = (uint32_t)dir;
	attr.attach_bpf_fd = (uint32_t)program;
	attr.attach_type = BPF_CGROUP_INET4_CONNECT;
	r = dir < 0 ? -errno : sys_bpf(BPF_PROG_ATTACH, &attr);
	if (r < 0)
		snprintf(detail, size, "the program cannot be attached to a group: %s", strerror(-r));
	else
		r = refused_in(dir);
	if (r == -ENOMSG)
		snprintf(detail, size, "an attached program is not asked");
	lat_cgroup_close(group);
	return r;
}
