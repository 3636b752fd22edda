/* Puts the filter's rows together to one classic BPF program, one block an architecture. */
#include "filter/filter.h"
#include "base/mem.h"
#include <errno.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The calls' low halves come first in memory. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "argument halves");

static int emit(struct lat_filter *f, uint16_t code, uint8_t jt, uint8_t jf, uint32_t k)
{
	if (f->count == LAT_FILTER_MAX)
		return -E2BIG;
	f->code[f->count++] = (struct sock_filter){ code, jt, jf, k };
	return 0;
}

static int ret(struct lat_filter *f, uint32_t action)
{
	return emit(f, BPF_RET | BPF_K, 0, 0, action);
}

static int load(struct lat_filter *f, size_t offset)
{
	return emit(f, BPF_LD | BPF_W | BPF_ABS, 0, 0, (uint32_t)offset);
}

/* One row: its conditions, each jumping behind the row when it does not hold, then its action. */
static int emit_rule(struct lat_filter *f, const struct lat_filter_rule *rule)
{
	size_t to_patch[3], patches = 0;
	int r = 0;

	for (size_t i = 0; i < 3 && rule->when[i].op != LAT_FILTER_NONE && !r; i++) {
		const struct lat_filter_cond *c = &rule->when[i];

		r = load(f, offsetof(struct seccomp_data, args) + c->arg * sizeof(uint64_t));
		if (!r && c->op == LAT_FILTER_EQ && c->mask != UINT32_MAX)
			r = emit(f, BPF_ALU | BPF_AND | BPF_K, 0, 0, c->mask);
		to_patch[patches++] = f->count;
		if (!r && c->op == LAT_FILTER_EQ)
			r = emit(f, BPF_JMP | BPF_JEQ | BPF_K, 0, 0, c->value);
		else if (!r)
			r = emit(f, BPF_JMP | BPF_JSET | BPF_K, 0, 0, c->mask);
	}
	if (!r)
		r = ret(f, rule->action);
	for (size_t i = 0; i < patches && !r; i++)
		f->code[to_patch[i]].jf = (uint8_t)(f->count - to_patch[i] - 1);
	return r;
}

/* Calls that libseccomp does not number: newer than the one of Debian 12 (these have one number
 * everywhere), or, on i386, told as part of socketcall although they are calls of their own since
 * Linux 4.3. */
static const struct {
	uint32_t arch; /* 0: any */
	const char *call;
	int nr;
} direct[] = {
	{ 0, "open_tree_attr", 467 },
	{ SCMP_ARCH_X86, "socket", 359 },
	{ SCMP_ARCH_X86, "socketpair", 360 },
	{ SCMP_ARCH_X86, "connect", 362 },
	{ SCMP_ARCH_X86, "setsockopt", 366 },
};

/* The number of a call, -ENOENT where the architecture does not have it, -EINVAL where it has but
 * we do not know it. */
static int number(uint32_t arch, const char *call)
{
	int nr;

	for (size_t i = 0; i < LAT_ARRAY_SIZE(direct); i++)
		if ((!direct[i].arch || direct[i].arch == arch) && !strcmp(call, direct[i].call))
			return direct[i].nr;
	nr = seccomp_syscall_resolve_name_arch(arch, call);
	/* Small pseudo numbers stand for calls behind a multiplexer, large ones for calls that are
	 * not there. */
	return nr >= 0 ? nr : nr > -10000 ? -EINVAL : -ENOENT;
}

/* All rows of one call that are of this kind; the accumulator holds the call's number before and, if
 * it is another call, after. */
static int emit_call(struct lat_filter *f, enum lat_filter_kind kind, uint32_t nr,
	const struct lat_filter_rule *rules, size_t count)
{
	size_t jump = f->count;
	bool closed = false;
	int r = emit(f, BPF_JMP | BPF_JEQ | BPF_K, 0, 0, nr);

	for (size_t i = 0; i < count && !r && !closed; i++) {
		if (rules[i].kinds && !(rules[i].kinds & kind))
			continue;
		r = emit_rule(f, &rules[i]);
		closed = rules[i].when[0].op == LAT_FILTER_NONE;
	}
	if (!r && !closed)
		r = ret(f, SECCOMP_RET_ALLOW);
	if (r)
		return r;
	if (f->count - jump - 1 > UINT8_MAX)
		return -E2BIG;
	f->code[jump].jf = (uint8_t)(f->count - jump - 1);
	return 0;
}

static int emit_arch(struct lat_filter *f, enum lat_filter_kind kind, uint32_t arch)
{
	size_t jump, i, n;
	int r = load(f, offsetof(struct seccomp_data, arch));

	if (!r)
		r = emit(f, BPF_JMP | BPF_JEQ | BPF_K, 1, 0, arch);
	jump = f->count;
	if (!r)
		r = emit(f, BPF_JMP | BPF_JA, 0, 0, 0);
	if (!r)
		r = load(f, offsetof(struct seccomp_data, nr));
	/* Also every x32 number: they have bit 30 set. */
	if (!r)
		r = emit(f, BPF_JMP | BPF_JGT | BPF_K, 0, 1, lat_filter_last_call);
	if (!r)
		r = ret(f, SECCOMP_RET_ERRNO | ENOSYS);
	for (i = 0; i < lat_filter_rule_count && !r; i += n) {
		const struct lat_filter_rule *rules = &lat_filter_rules[i];
		int nr = number(arch, rules->call);

		for (n = 1; i + n < lat_filter_rule_count && !strcmp(rules[n].call, rules->call);
			n++)
			;
		if (nr == -EINVAL)
			r = nr;
		else if (nr >= 0)
			r = emit_call(f, kind, (uint32_t)nr, rules, n);
	}
	if (!r)
		r = ret(f, SECCOMP_RET_ALLOW);
	if (!r)
		f->code[jump].k = (uint32_t)(f->count - jump - 1);
	return r;
}

int lat_filter_build(struct lat_filter *f, enum lat_filter_kind kind)
{
	uint32_t native = seccomp_arch_native();
	int r;

	f->count = 0;
	r = emit_arch(f, kind, native);
	if (!r && native == SCMP_ARCH_X86_64)
		r = emit_arch(f, kind, SCMP_ARCH_X86);
	if (!r && native == SCMP_ARCH_AARCH64)
		r = emit_arch(f, kind, SCMP_ARCH_ARM);
	if (!r)
		r = ret(f, SECCOMP_RET_ERRNO | ENOSYS);
	return r;
}

int lat_filter_install(const struct lat_filter *f)
{
	struct sock_fprog program = { (unsigned short)f->count, (struct sock_filter *)f->code };
	long fd = syscall(
		SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);

	return fd < 0 ? -errno : (int)fd;
}
