/* Build time, size and look-up cost of the decision tables beside a linear scan: bench_tables [RULES...].
 * Columns: rules, build in ms, MB, ns of a look-up (random rule, random host in it), ns of the scan, ratio scan/tables,
 * ratio of the look-up to the smallest table's. */
#include "base/clock.h"
#include "../support/flowgen.h"
#include <stdio.h>
#include <stdlib.h>

#define FLOWS 65536u
#define REPEATS 5

static int by_double(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *v, unsigned n)
{
	qsort(v, n, sizeof(*v), by_double);
	return v[n / 2];
}

static void make(struct lat_entry *e, struct lat_flow *f, uint32_t n)
{
	static const uint8_t lens4[] = { 24, 28, 32 }, lens6[] = { 48, 64, 128 };
	uint64_t s = n;

	for (uint32_t i = 0; i < n; i++) {
		bool is4 = i % 4 != 0;
		uint8_t b[16];

		for (unsigned k = 0; k < 16; k++)
			b[k] = (uint8_t)gen_next(&s);
		b[0] = is4 ? 10 : 0xfd;
		e[i] = (struct lat_entry){ .rule = i + 1, .proto = i % 2 ? IPPROTO_TCP : IPPROTO_UDP };
		e[i].prefix.family = is4 ? 4 : 6;
		e[i].prefix.len = is4 ? lens4[i % 3] : lens6[i % 3];
		if (is4)
			lat_addr_from4(&e[i].prefix.addr, b);
		else
			lat_addr_from6(&e[i].prefix.addr, b);
		gen_mask(&e[i].prefix);
		e[i].port_lo = e[i].port_hi = (uint16_t)(1 + gen_below(&s, 65534));
	}
	for (uint32_t i = 0; i < FLOWS; i++) {
		const struct lat_entry *x = &e[gen_below(&s, n)];

		f[i] = (struct lat_flow){ .remote = x->prefix.addr, .dport = x->port_lo, .proto = x->proto };
		if (x->prefix.len != 32 && x->prefix.len != 128)
			f[i].remote.b[15] |= (uint8_t)(gen_next(&s) & 15);
	}
}

static uint64_t sink;

static double lookup_ns(const struct lat_tables *t, const struct lat_flow *f)
{
	double v[REPEATS];

	for (unsigned r = 0; r < REPEATS; r++) {
		uint64_t start = lat_now_ns();

		for (uint32_t i = 0; i < FLOWS; i++)
			sink += lat_tables_lookup(t, &f[i]);
		v[r] = (double)(lat_now_ns() - start) / FLOWS;
	}
	return median(v, REPEATS);
}

static double scan_ns(const struct lat_entry *e, uint32_t n, const struct lat_flow *f)
{
	uint32_t flows = 20000000u / n < FLOWS ? 20000000u / n : FLOWS;
	uint64_t start = lat_now_ns();

	for (uint32_t i = 0; i < flows; i++)
		sink += gen_scan(e, n, &f[i]);
	return (double)(lat_now_ns() - start) / flows;
}

static void measure(uint32_t n, double *first)
{
	struct lat_entry *e = calloc(n, sizeof(*e));
	struct lat_flow *f = calloc(FLOWS, sizeof(*f));
	struct lat_tables *t = NULL;
	double v[REPEATS], build, look, scan;

	if (!e || !f)
		exit(1);
	make(e, f, n);
	for (unsigned r = 0; r < REPEATS; r++) {
		uint64_t start = lat_now_ns();

		lat_tables_free(t);
		if (lat_tables_build(e, n, &t) < 0)
			exit(1);
		v[r] = (double)(lat_now_ns() - start) / 1e6;
	}
	build = median(v, REPEATS);
	look = lookup_ns(t, f);
	scan = scan_ns(e, n, f);
	*first = *first > 0 ? *first : look;
	printf("%8u  %9.2f  %7.2f  %8.1f  %10.0f  %8.1f  %6.2f\n", n, build, (double)lat_tables_bytes(t) / 1048576,
		look, scan, scan / look, look / *first);
	lat_tables_free(t);
	free(e);
	free(f);
}

int main(int argc, char **argv)
{
	static const uint32_t usual[] = { 10, 100, 1000, 10000, 100000 };
	double first = 0;

	printf("%8s  %9s  %7s  %8s  %10s  %8s  %6s\n", "rules", "build ms", "MB", "look ns", "scan ns", "scan/look",
		"look/1st");
	for (int i = 1; i < argc; i++)
		measure((uint32_t)strtoul(argv[i], NULL, 10), &first);
	for (unsigned i = 0; argc < 2 && i < sizeof(usual) / sizeof(usual[0]); i++)
		measure(usual[i], &first);
	return sink == 1;
}
