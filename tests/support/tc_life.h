/* For tests of one device's life under tc programs: agents on v0 (support/tc.h made it), policies of one port, and what is left
 * on the device. */
#ifndef LAT_TESTS_TC_LIFE_H
#define LAT_TESTS_TC_LIFE_H
#include "support/tc.h"
#include <linux/bpf.h>
#include <net/if.h>
#include <sys/syscall.h>

enum { OUT, IN };
enum { FIN = 1, SYN = 2, RST = 4, ACK = 16 };

#define US "192.0.2.1"
#define THEM "10.1.2.3"

static char say[LAT_TC_SAY];

static inline int try_open(struct lat_tc **tc, bool adopt)
{
	const struct lat_tc_options options = { .device = "v0", .pins = TC_PINS, .adopt = adopt, .flows = 1024 };

	return lat_tc_open(&options, tc, say);
}

static inline struct lat_tc *must_open(bool adopt)
{
	struct lat_tc *tc = NULL;
	int r = try_open(&tc, adopt);

	if (r < 0)
		fail_msg("open: %s: %s", strerror(-r), say);
	return tc;
}

/* Rule 1: out tcp to 10/8 port `port` has this action; all else is denied. */
static inline int apply_port(struct lat_tc *tc, uint32_t generation, uint16_t port, uint8_t action, bool keep)
{
	const struct lat_entry entries[] = { tc_entry(1, OUT, "10.0.0.0/8", 6, port, port),
		tc_entry(1, OUT, "10.0.0.0/8", 17, port, port), tc_entry(1, OUT, "10.0.0.0/8", 1, 0, 65535) };

	return tc_apply(tc, generation, LAT_ACTION_DENY, &action, 1, entries, 3, keep);
}

static inline bool passes(struct lat_tc *tc, uint8_t dir, const struct packet_bytes *p)
{
	int r = lat_tc_run(tc, dir, p->b, p->n);

	assert_in_range(r, 0, 1);
	return r == 1;
}

static inline uint32_t generation_of(struct lat_tc *tc)
{
	struct lat_tc_status status;

	assert_int_equal(lat_tc_status(tc, &status), 0);
	return status.generation;
}

static inline int count_of(const char *command)
{
	FILE *f = popen(command, "r");
	int n = -1;

	assert_non_null(f);
	if (fscanf(f, "%d", &n) != 1)
		n = -1;
	pclose(f);
	return n;
}

/* Programs on the device by TCX; there are only ours. */
static inline int tcx_hooks(void)
{
	int n = 0;

	for (uint32_t hook = 46; hook <= 47; hook++) {
		union bpf_attr attr;

		memset(&attr, 0, sizeof(attr));
		attr.query.target_fd = if_nametoindex("v0");
		attr.query.attach_type = hook;
		if (syscall(SYS_bpf, BPF_PROG_QUERY, &attr, sizeof(attr)) == 0)
			n += (int)attr.query.prog_cnt;
	}
	return n;
}

/* And filters of our programs. */
static inline int hooks(void)
{
	return tcx_hooks() +
		count_of("for d in ingress egress; do tc filter show dev v0 $d 2>/dev/null; done | grep -c lat_tc_");
}

static inline void nothing_is_left(void)
{
	assert_int_equal(hooks(), 0);
	assert_int_not_equal(access(TC_PINS, F_OK), 0);
	assert_int_equal(count_of("tc qdisc show dev v0 | grep -c clsact"), 0);
}

#endif
