/* The command's seccomp filter: covers what the namespaces do not, and hands connect(2) to the
 * supervisor.
 *
 * It is not the wall for IP (that is the trap namespace or the programs of the group). Rules are rows of a table (rules.c),
 * first match wins within a system call; int arguments are compared by their low 32 bits, as the
 * kernel reads them. Numbers come from libseccomp; its rule language can say neither "otherwise"
 * beside an allowing default nor "low half differs", so the program is put together here
 * (compile.c). */
#ifndef LAT_SANDBOX_FILTER_H
#define LAT_SANDBOX_FILTER_H
#include <linux/filter.h>
#include <stddef.h>
#include <stdint.h>

/* One condition on an argument: (arg & mask) op value. */
enum lat_filter_op { LAT_FILTER_NONE, LAT_FILTER_EQ, LAT_FILTER_ANY /* of the mask's bits set */ };
struct lat_filter_cond {
	uint8_t op, arg;
	uint32_t mask, value;
};

/* What stands behind the filter; a row may be of some kinds only. */
enum lat_filter_kind {
	LAT_FILTER_TRAP = 1,   /* the trap: every connect is notified */
	LAT_FILTER_TABLES = 2, /* programs on the group: connects with an address of IP's length pass */
	LAT_FILTER_ASK = 4     /* programs on the group, and every connect is notified */
};

struct lat_filter_rule {
	const char *call; /* rows of one call stand together */
	uint32_t action;  /* SECCOMP_RET_* with its errno */
	struct lat_filter_cond when[3];
	const char *why;
	unsigned kinds; /* enum lat_filter_kind; 0: all */
};

extern const struct lat_filter_rule lat_filter_rules[];
extern const size_t lat_filter_rule_count;
/* Calls with a higher number are newer than this table: ENOSYS, so that programs fall back. */
extern const uint32_t lat_filter_last_call;

#define LAT_FILTER_MAX 2048
struct lat_filter {
	struct sock_filter code[LAT_FILTER_MAX];
	size_t count;
};

/* Puts the program of one kind together. 0; -E2BIG; -EINVAL: a call of the table has no number that we know. */
int lat_filter_build(struct lat_filter *filter, enum lat_filter_kind kind);
/* Installs it on the calling thread, which must have NO_NEW_PRIVS. Returns the listener, or
 * negative errno. */
int lat_filter_install(const struct lat_filter *filter);

#endif
