/* What a connect costs with the shim of preload mode in the process: the look-up in the shared image alone, and a connect of
 * a datagram socket by the system call and by the function that the program sees (under `lattice run --mode preload` that
 * is the shim's; outside it, libc's). Prints one line: name, median of 9 rounds in ns. */
#include "core/preload_image.h"
#include "intercept/table.h"
#include "base/clock.h"
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ROUNDS 9

static struct sockaddr_in to = { .sin_family = AF_INET };
static int fd;

static void by_call(int i)
{
	(void)i;
	if (syscall(SYS_connect, fd, &to, (long)sizeof(to)) < 0)
		exit(1);
}

static void by_function(int i)
{
	(void)i;
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0)
		exit(1);
}

static struct lat_shim_image *image;
static struct lat_shim_flow flows[1024];
static unsigned sum;

static void by_image(int i)
{
	struct lat_shim_answer a;

	lat_shim_judge(image, &flows[i & 1023], &a);
	sum += a.rule;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* pause: between rounds, for the supervisor to write its records: else its speed would be measured, not the call's. */
static void measure(const char *name, void (*one)(int), int count, unsigned pause_us)
{
	double ns[ROUNDS];

	for (int r = 0; r < ROUNDS; r++) {
		uint64_t from;

		usleep(pause_us);
		from = lat_now_ns();
		for (int i = 0; i < count; i++)
			one(i);
		ns[r] = (double)(lat_now_ns() - from) / count;
	}
	qsort(ns, ROUNDS, sizeof(*ns), by_value);
	printf("%s %.0f\n", name, ns[ROUNDS / 2]);
}

/* rules prefixes in 10.0.0.0/8, each with a rule. */
static void build(uint32_t rules)
{
	struct lat_policy_spec spec = { .rule_count = rules, .entry_count = rules };
	struct lat_rule *list = calloc(rules, sizeof(*list));
	struct lat_entry *entries = calloc(rules, sizeof(*entries));
	struct lat_policy *policy;

	for (uint32_t i = 0; i < rules; i++) {
		uint32_t a = htonl(0x0a000000u + (i << 8));

		list[i] = (struct lat_rule){ .where = "bench:1", .action = LAT_ACTION_ALLOW };
		entries[i] = (struct lat_entry){ .rule = i + 1, .port_hi = 65535, .proto = LAT_PROTO_ANY,
			.prefix = { .family = 4, .len = 24 } };
		lat_addr_from4(&entries[i].prefix.addr, &a);
	}
	spec.rules = list;
	spec.entries = entries;
	if (lat_policy_build(1, &spec, &policy) < 0 || lat_preload_image(policy, false, &image) < 0)
		exit(1);
	for (uint32_t i = 0; i < 1024; i++) {
		uint32_t a = htonl(0x0a000001u + ((i * 7919u % rules) << 8));

		flows[i] = (struct lat_shim_flow){ .port = 443, .proto = IPPROTO_TCP };
		lat_addr_from4(&flows[i].remote, &a);
	}
	lat_policy_unref(policy);
	free(list);
	free(entries);
}

int main(int argc, char **argv)
{
	const char *address = argc > 1 ? argv[1] : "127.0.0.1";

	to.sin_port = htons(9);
	if (inet_pton(AF_INET, address, &to.sin_addr) != 1)
		return 2;
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	for (uint32_t rules = 10; rules <= 10000; rules *= 10) {
		char name[32];

		build(rules);
		snprintf(name, sizeof(name), "image-%u", rules);
		measure(name, by_image, 100000, 0);
		free(image);
	}
	measure("connect-call", by_call, 1000, 50000);
	measure("connect-function", by_function, 1000, 50000);
	measure("flood-function", by_function, 20000, 0);
	fprintf(stderr, "%u\n", sum);
	return 0;
}
