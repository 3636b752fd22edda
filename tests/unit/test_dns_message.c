/* Queries are read strictly, answers are built within their room. */
#include "core/dns_message.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <arpa/nameser.h>
#include <cmocka.h>

/* id 0x1234, RD, one question: WwW.Example A IN */
static const uint8_t plain[] = {0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3, 'W', 'w', 'W', 7, 'E',
	'x', 'a', 'm', 'p', 'l', 'e', 0, 0, 1, 0, 1};
#define PLAIN sizeof(plain)
static const uint8_t opt[] = {0, 0, 41, 0x10, 0, 0, 0, 0, 0, 0, 0}; /* 4096 bytes */

static struct lat_dns_query q;
static uint8_t msg[2048], out[65535];

static int parse(size_t len)
{
	uint8_t *exact = malloc(len ? len : 1); /* so that a sanitizer sees a read past the end */
	int r;

	memcpy(exact, msg, len);
	r = lat_dns_query_parse(exact, len, &q);
	free(exact);
	return r;
}

static size_t base(void)
{
	memcpy(msg, plain, PLAIN);
	return PLAIN;
}

static size_t with_opt(const void *record, size_t len)
{
	size_t n = base();

	msg[11] = 1;
	memcpy(msg + n, record, len);
	return n + len;
}

static void plain_query_is_read(void **state)
{
	assert_int_equal(parse(base()), 0);
	assert_int_equal(q.id, 0x1234);
	assert_int_equal(q.qtype, LAT_DNS_A);
	assert_int_equal(q.qclass, 1);
	assert_int_equal(q.rd, 1);
	assert_int_equal(q.edns, 0);
	assert_int_equal(q.udp_size, LAT_DNS_UDP_MIN);
	assert_string_equal(q.text, "WwW.Example");
}

static void every_shorter_message_is_refused(void **state)
{
	base();
	for (size_t n = 0; n < PLAIN; n++)
		assert_int_equal(parse(n), n < 12 ? -EBADMSG : LAT_DNS_FORMERR);
	with_opt(opt, sizeof(opt));
	for (size_t n = PLAIN; n < PLAIN + sizeof(opt); n++)
		assert_int_equal(parse(n), LAT_DNS_FORMERR);
}

static void trailing_bytes_are_refused(void **state)
{
	size_t n = base();

	msg[n] = 0;
	assert_int_equal(parse(n + 1), LAT_DNS_FORMERR);
	n = with_opt(opt, sizeof(opt));
	msg[n] = 0;
	assert_int_equal(parse(n + 1), LAT_DNS_FORMERR);
}

static void answers_are_no_queries(void **state)
{
	size_t n = base();

	msg[2] |= 0x80;
	assert_int_equal(parse(n), -EBADMSG);
}

static void other_operations_are_not_implemented(void **state)
{
	for (int op = 1; op < 16; op++) {
		size_t n = base();

		msg[2] = (uint8_t)(op << 3);
		assert_int_equal(parse(n), LAT_DNS_NOTIMP);
		assert_int_equal(q.opcode, op);
	}
}

static void other_counts_are_refused(void **state)
{
	static const struct {
		int at, value;
	} bad[] = {{5, 0}, {5, 2}, {4, 1}, {7, 1}, {9, 1}, {11, 1}, {11, 2}, {10, 1}};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		size_t n = base();

		msg[bad[i].at] = (uint8_t)bad[i].value;
		assert_int_equal(parse(n), LAT_DNS_FORMERR);
	}
}

static void compressed_and_long_names_are_refused(void **state)
{
	size_t n = base();

	msg[12] = 0xc0; /* a pointer to itself */
	msg[13] = 12;
	assert_int_equal(parse(n), LAT_DNS_FORMERR);
	base();
	msg[12] = 64;
	assert_int_equal(parse(sizeof(msg)), LAT_DNS_FORMERR);
	base();
	for (n = 12; n < 12 + 4 * 64; n += 64) { /* four labels of 63: 257 bytes with the root */
		msg[n] = 63;
		memset(msg + n + 1, 'a', 63);
	}
	memcpy(msg + n, (uint8_t[]){0, 0, 1, 0, 1}, 5);
	assert_int_equal(parse(n + 5), LAT_DNS_FORMERR);
	assert_int_equal(q.qname_len, 0);
	msg[12 + 3 * 64] = 61; /* 255: the longest */
	n = 12 + 3 * 64 + 62;
	memcpy(msg + n, (uint8_t[]){0, 0, 1, 0, 1}, 5);
	assert_int_equal(parse(n + 5), 0);
	assert_int_equal(q.qname_len, LAT_DNS_WIRE_NAME);
	assert_int_equal(strlen(q.text), 253);
}

static void odd_bytes_in_names_stay_visible(void **state)
{
	size_t n = base();

	msg[13] = 0; /* a NUL, a dot and a backslash inside a label end nothing */
	msg[14] = '.';
	msg[15] = '\\';
	assert_int_equal(parse(n), 0);
	assert_string_equal(q.text, "\\000\\046\\092.Example");
	memset(msg + 12, 0, 1);
	memcpy(msg + 13, (uint8_t[]){0, 2, 0, 1}, 4);
	assert_int_equal(parse(17), 0);
	assert_string_equal(q.text, ".");
	for (n = 12; n < 12 + 3 * 64; n += 64) {
		msg[n] = 63;
		memset(msg + n + 1, 1, 63);
	}
	memcpy(msg + n, (uint8_t[]){0, 0, 1, 0, 1}, 5);
	assert_int_equal(parse(n + 5), 0);
	assert_int_equal(strlen(q.text), 3 * 63 * 4 + 2);
}

static void edns_size_is_bounded(void **state)
{
	uint8_t record[sizeof(opt)];

	assert_int_equal(parse(with_opt(opt, sizeof(opt))), 0);
	assert_int_equal(q.edns, 1);
	assert_int_equal(q.udp_size, LAT_DNS_UDP_MAX);
	memcpy(record, opt, sizeof(opt));
	record[3] = 0;
	record[4] = 10;
	assert_int_equal(parse(with_opt(record, sizeof(record))), 0);
	assert_int_equal(q.udp_size, LAT_DNS_UDP_MIN);
	record[3] = 600 >> 8;
	record[4] = 600 & 255;
	assert_int_equal(parse(with_opt(record, sizeof(record))), 0);
	assert_int_equal(q.udp_size, 600);
}

static void only_a_sound_opt_record_is_taken(void **state)
{
	uint8_t record[sizeof(opt) + 4];

	memcpy(record, opt, sizeof(opt));
	record[6] = 1; /* EDNS version 1 */
	assert_int_equal(parse(with_opt(record, sizeof(opt))), LAT_DNS_BADVERS);
	record[6] = 0;
	record[2] = 1; /* not OPT */
	assert_int_equal(parse(with_opt(record, sizeof(opt))), LAT_DNS_FORMERR);
	record[2] = 41;
	record[0] = 1; /* not of the root */
	assert_int_equal(parse(with_opt(record, sizeof(opt))), LAT_DNS_FORMERR);
	record[0] = 0;
	record[10] = 4;
	memcpy(record + 11, (uint8_t[]){0, 10, 0, 0}, 4); /* an empty cookie */
	assert_int_equal(parse(with_opt(record, sizeof(record))), 0);
	record[14] = 1; /* an option longer than the record */
	assert_int_equal(parse(with_opt(record, sizeof(record))), LAT_DNS_FORMERR);
}

static struct lat_addr addr(const char *text)
{
	struct lat_addr a;

	assert_int_equal(lat_addr_parse(text, &a), 0);
	return a;
}

static void answer_has_the_question_as_asked_and_the_chain(void **state)
{
	struct lat_addr four = addr("203.0.113.9"), six = addr("2001:db8::9");
	struct lat_dns_reply r;
	ns_msg m;
	ns_rr rr;
	size_t n;

	parse(with_opt(opt, sizeof(opt)));
	lat_dns_reply_begin(&r, out, q.udp_size, &q);
	assert_int_equal(lat_dns_reply_cname(&r, "one.example", 7), 0);
	assert_int_equal(lat_dns_reply_cname(&r, "two.example.", 70000), 0);
	assert_int_equal(lat_dns_reply_addr(&r, &four, 30), 0);
	assert_int_equal(lat_dns_reply_addr(&r, &six, 31), 0);
	n = lat_dns_reply_end(&r, LAT_DNS_NOERROR);
	assert_memory_equal(out + 12, plain + 12, PLAIN - 12);
	assert_int_equal(ns_initparse(out, (int)n, &m), 0);
	assert_int_equal(ns_msg_id(m), 0x1234);
	assert_true(ns_msg_getflag(m, ns_f_qr) && ns_msg_getflag(m, ns_f_rd) &&
		    ns_msg_getflag(m, ns_f_ra));
	assert_false(ns_msg_getflag(m, ns_f_tc) || ns_msg_getflag(m, ns_f_aa) ||
		     ns_msg_getflag(m, ns_f_ad));
	assert_int_equal(ns_msg_count(m, ns_s_an), 4);
	assert_int_equal(ns_msg_count(m, ns_s_ar), 1);
	assert_int_equal(ns_parserr(&m, ns_s_an, 0, &rr), 0);
	assert_string_equal(ns_rr_name(rr), "WwW.Example");
	assert_int_equal(ns_rr_type(rr), ns_t_cname);
	assert_int_equal(ns_parserr(&m, ns_s_an, 1, &rr), 0);
	assert_string_equal(ns_rr_name(rr), "one.example");
	assert_int_equal(ns_rr_ttl(rr), 70000);
	assert_int_equal(ns_parserr(&m, ns_s_an, 2, &rr), 0);
	assert_string_equal(ns_rr_name(rr), "two.example");
	assert_int_equal(ns_rr_type(rr), ns_t_a);
	assert_memory_equal(ns_rr_rdata(rr), four.b + 12, 4);
	assert_int_equal(ns_parserr(&m, ns_s_an, 3, &rr), 0);
	assert_int_equal(ns_rr_type(rr), ns_t_aaaa);
	assert_int_equal(ns_parserr(&m, ns_s_ar, 0, &rr), 0);
	assert_int_equal(ns_rr_type(rr), ns_t_opt);
}

static void what_does_not_fit_is_marked_as_cut(void **state)
{
	struct lat_addr four = addr("203.0.113.9");
	struct lat_dns_reply r;
	unsigned n = 0;
	ns_msg m;

	for (int edns = 0; edns < 2; edns++) {
		parse(edns ? with_opt(opt, sizeof(opt)) : base());
		lat_dns_reply_begin(&r, out, LAT_DNS_UDP_MIN, &q);
		for (n = 0; lat_dns_reply_addr(&r, &four, 1) == 0; n++)
			;
		assert_int_equal(n, (512 - PLAIN - (edns ? sizeof(opt) : 0)) / 16);
		assert_int_equal(lat_dns_reply_cname(&r, "a.example", 1), -ENOSPC);
		lat_dns_reply_explain(
			&r, LAT_DNS_REASON_BLOCKED, "this has no room either, so it is left out");
		n = (unsigned)lat_dns_reply_end(&r, LAT_DNS_NOERROR);
		assert_true(n <= LAT_DNS_UDP_MIN);
		assert_int_equal(ns_initparse(out, (int)n, &m), 0);
		assert_true(ns_msg_getflag(m, ns_f_tc));
	}
}

static void record_can_be_taken_back(void **state)
{
	struct lat_addr four = addr("203.0.113.9");
	struct lat_dns_reply r;
	size_t empty;

	parse(base());
	lat_dns_reply_begin(&r, out, LAT_DNS_UDP_MIN, &q);
	empty = r.len;
	lat_dns_reply_undo(&r);
	assert_int_equal(lat_dns_reply_addr(&r, &four, 1), 0);
	lat_dns_reply_undo(&r);
	lat_dns_reply_undo(&r);
	assert_int_equal(lat_dns_reply_end(&r, LAT_DNS_NXDOMAIN), empty);
	assert_int_equal(out[3] & 15, LAT_DNS_NXDOMAIN);
	assert_int_equal(out[7], 0);
}

static void odd_targets_are_not_sent(void **state)
{
	char label[80], name[400] = "";
	struct lat_dns_reply r;

	memset(label, 'a', 64);
	label[64] = '\0';
	for (int i = 0; i < 60; i++)
		strcat(name, "abc.e");
	parse(base());
	lat_dns_reply_begin(&r, out, LAT_DNS_UDP_MIN, &q);
	assert_int_equal(lat_dns_reply_cname(&r, "", 1), -EINVAL);
	assert_int_equal(lat_dns_reply_cname(&r, "a..b", 1), -EINVAL);
	assert_int_equal(lat_dns_reply_cname(&r, ".a", 1), -EINVAL);
	assert_int_equal(lat_dns_reply_cname(&r, "a b", 1), -EINVAL);
	assert_int_equal(lat_dns_reply_cname(&r, "a\\000b", 1), -EINVAL);
	assert_int_equal(lat_dns_reply_cname(&r, label, 1), -EINVAL);
	assert_int_equal(lat_dns_reply_cname(&r, name, 1), -EINVAL);
	assert_int_equal(r.count, 0);
}

static void error_of_an_unreadable_question_is_a_header(void **state)
{
	struct lat_dns_reply r;

	base();
	assert_int_equal(parse(20), LAT_DNS_FORMERR);
	lat_dns_reply_begin(&r, out, LAT_DNS_UDP_MIN, &q);
	assert_int_equal(lat_dns_reply_end(&r, LAT_DNS_FORMERR), 12);
	assert_int_equal(out[5], 0);
	assert_int_equal(out[0] << 8 | out[1], 0x1234);
}

static void reason_and_extended_code_go_into_opt(void **state)
{
	struct lat_dns_reply r;
	ns_msg m;
	ns_rr rr;
	size_t n;

	parse(with_opt(opt, sizeof(opt)));
	lat_dns_reply_begin(&r, out, q.udp_size, &q);
	lat_dns_reply_explain(&r, LAT_DNS_REASON_BLOCKED, "no rule");
	n = lat_dns_reply_end(&r, LAT_DNS_BADVERS);
	assert_int_equal(out[3] & 15, 0);
	assert_int_equal(ns_initparse(out, (int)n, &m), 0);
	assert_int_equal(ns_parserr(&m, ns_s_ar, 0, &rr), 0);
	assert_int_equal(ns_rr_ttl(rr) >> 24, 1);
	assert_int_equal(ns_rr_rdlen(rr), 4 + 2 + 7);
	assert_memory_equal(ns_rr_rdata(rr), "\0\17\0\11\0\17no rule", 13);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(plain_query_is_read),
		cmocka_unit_test(every_shorter_message_is_refused),
		cmocka_unit_test(trailing_bytes_are_refused),
		cmocka_unit_test(answers_are_no_queries),
		cmocka_unit_test(other_operations_are_not_implemented),
		cmocka_unit_test(other_counts_are_refused),
		cmocka_unit_test(compressed_and_long_names_are_refused),
		cmocka_unit_test(odd_bytes_in_names_stay_visible),
		cmocka_unit_test(edns_size_is_bounded),
		cmocka_unit_test(only_a_sound_opt_record_is_taken),
		cmocka_unit_test(answer_has_the_question_as_asked_and_the_chain),
		cmocka_unit_test(what_does_not_fit_is_marked_as_cut),
		cmocka_unit_test(record_can_be_taken_back),
		cmocka_unit_test(odd_targets_are_not_sent),
		cmocka_unit_test(error_of_an_unreadable_question_is_a_header),
		cmocka_unit_test(reason_and_extended_code_go_into_opt),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
