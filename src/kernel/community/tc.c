/* The tc enforcer in the community edition: there is none; see tc.h. */
#include "kernel/tc.h"
#include "base/edition.h"

int lat_tc_open(const struct lat_tc_options *options, struct lat_tc **out, char say[LAT_TC_SAY])
{
	if (say)
		say[0] = '\0';
	return -LAT_EPRO;
}

void lat_tc_close(struct lat_tc *tc, bool keep)
{
}

int lat_tc_clear(const char *pins, const char *device, char say[LAT_TC_SAY])
{
	if (say)
		say[0] = '\0';
	return -LAT_EPRO;
}

int lat_tc_probe(char say[LAT_TC_SAY])
{
	if (say)
		say[0] = '\0';
	return -LAT_EPRO;
}

int lat_tc_prepare(struct lat_tc *tc, const struct lat_tc_image *image, char say[LAT_TC_SAY])
{
	return -LAT_EPRO;
}

int lat_tc_pin(struct lat_tc *tc, const struct lat_addr *addr, const struct lat_tc_pin *pin)
{
	return -LAT_EPRO;
}

int lat_tc_pins(struct lat_tc *tc, bool prepared, const struct lat_addr *addrs, const struct lat_tc_pin *pins, size_t count)
{
	return -LAT_EPRO;
}

int lat_tc_flip(struct lat_tc *tc)
{
	return -LAT_EPRO;
}

int lat_tc_flip_back(struct lat_tc *tc)
{
	return -LAT_EPRO;
}

void lat_tc_settle(struct lat_tc *tc)
{
}

int lat_tc_overlay(struct lat_tc *tc, const struct lat_tc_temp *temps, size_t count)
{
	return -LAT_EPRO;
}

int lat_tc_status(struct lat_tc *tc, struct lat_tc_status *out)
{
	return -LAT_EPRO;
}

int lat_tc_counters(struct lat_tc *tc, struct lat_tc_count *counts, size_t max)
{
	return -LAT_EPRO;
}

int lat_tc_flows(struct lat_tc *tc, struct lat_tc_key *keys, struct lat_tc_flow *flows, size_t max)
{
	return -LAT_EPRO;
}

int lat_tc_answer(struct lat_tc *tc, const struct lat_addr *remote, uint8_t proto, uint16_t port, uint32_t pid, bool allow,
	uint64_t for_ns)
{
	return -LAT_EPRO;
}

int lat_tc_answers_clear(struct lat_tc *tc)
{
	return -LAT_EPRO;
}

int lat_tc_hooked(const struct lat_tc *tc)
{
	return -LAT_EPRO;
}

int lat_tc_cut(struct lat_tc *tc)
{
	return -LAT_EPRO;
}

int lat_tc_ask(struct lat_tc *tc, const struct lat_tc_question *question, struct lat_tc_answer *out)
{
	return -LAT_EPRO;
}

int lat_tc_run(struct lat_tc *tc, uint8_t dir, const void *packet, size_t size)
{
	return -LAT_EPRO;
}

int lat_tc_time(struct lat_tc *tc, uint8_t dir, bool asked, const void *packet, size_t size, uint32_t repeat, uint32_t *ns)
{
	return -LAT_EPRO;
}

int lat_tc_events(struct lat_tc *tc)
{
	return -LAT_EPRO;
}

const char *lat_tc_stat_name(enum lat_tc_stat stat)
{
	return "none";
}
