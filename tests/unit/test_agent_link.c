/* The supervisor's end of the control socket: what it asks, what it takes of an agent that says odd things, and its bounds. */
#include "core/agent_link.h"
#include <errno.h>
#include <jansson.h>
#include <lattice_abi.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

struct fixture {
	struct lat_agent_link *link;
	int agent;
	unsigned events, reloads;
	uint64_t lost;
	struct lat_event last;
};

static void on_event(void *ctx, const void *record, size_t size)
{
	struct fixture *f = ctx;

	assert_int_equal(size, sizeof(f->last));
	memcpy(&f->last, record, size);
	f->events++;
}

static void on_lost(void *ctx, uint64_t count)
{
	((struct fixture *)ctx)->lost += count;
}

static void on_reload(void *ctx)
{
	((struct fixture *)ctx)->reloads++;
}

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct lat_agent_hooks hooks = { .ctx = f, .event = on_event, .lost = on_lost, .reload = on_reload };
	int ends[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	f->agent = ends[0];
	assert_int_equal(lat_agent_new(ends[1], &hooks, &f->link), 0);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	lat_agent_close(f->link);
	if (f->agent >= 0)
		close(f->agent);
	free(f);
	return 0;
}

static void say_bytes(struct fixture *f, const void *bytes, size_t size)
{
	assert_int_equal(write(f->agent, bytes, size), size);
}

static void say_frame(struct fixture *f, const char *text)
{
	size_t size = strlen(text);
	uint8_t head[4] = { (uint8_t)(size >> 24), (uint8_t)(size >> 16), (uint8_t)(size >> 8), (uint8_t)size };

	say_bytes(f, head, 4);
	say_bytes(f, text, size);
}

/* The next request, as JSON: to be freed. */
static json_t *heard(struct fixture *f)
{
	uint8_t head[4], bytes[4096];
	size_t size;
	json_t *frame;

	assert_int_equal(recv(f->agent, head, 4, MSG_WAITALL), 4);
	size = (size_t)head[2] << 8 | head[3];
	assert_int_equal(recv(f->agent, bytes, size, MSG_WAITALL), size);
	frame = json_loadb((char *)bytes, size, 0, NULL);
	assert_non_null(frame);
	return frame;
}

static const char started[] = "{\"id\":1,\"ok\":true,\"more\":true,\"result\":{\"started\":{\"id\":\"a-1\",\"group\":"
	"\"/g\",\"generation\":1,\"digest\":\"abc\",\"network\":\"wf0\"}}}";

static void start(struct fixture *f)
{
	struct lat_agent_run run = { .init = 77, .policy = "/etc/p.lua", .name = "curl", .dns_port = 5300 };
	struct lat_agent_started out;
	char say[LAT_AGENT_SAY];
	json_t *frame;

	say_frame(f, started);
	assert_int_equal(lat_agent_start(f->link, &run, &out, say), 0);
	assert_string_equal(out.id, "a-1");
	assert_string_equal(out.group, "/g");
	assert_string_equal(out.network, "wf0");
	assert_string_equal(out.digest, "abc");
	assert_int_equal(out.generation, 1);
	frame = heard(f);
	assert_string_equal(json_string_value(json_object_get(frame, "verb")), "run");
	assert_int_equal(json_integer_value(json_object_get(json_object_get(frame, "args"), "pid")), 77);
	assert_int_equal(json_integer_value(json_object_get(json_object_get(frame, "args"), "dns_port")), 5300);
	json_decref(frame);
}

static void a_run_is_asked_for_and_its_events_come(void **state)
{
	struct fixture *f = *state;
	struct lat_event e = { .rule = 7, .dport = 443, .kind = LAT_EVENT_VERDICT };
	char text[1024], hex[2 * sizeof(e) + 1];

	for (size_t i = 0; i < sizeof(e); i++)
		sprintf(hex + 2 * i, "%02x", ((uint8_t *)&e)[i]);
	start(f);
	snprintf(text, sizeof(text), "{\"id\":1,\"ok\":true,\"more\":true,\"result\":{\"events\":\"%s\",\"lost\":3}}", hex);
	say_frame(f, text);
	say_frame(f, "{\"id\":1,\"ok\":true,\"more\":true,\"result\":{\"reload\":2,\"digest\":\"x\"}}");
	assert_int_equal(lat_agent_dispatch(f->link), 0);
	assert_int_equal(f->events, 1);
	assert_int_equal(f->last.dport, 443);
	assert_int_equal(f->lost, 3);
	assert_int_equal(f->reloads, 1);
	assert_null(lat_agent_ended(f->link));
}

static void a_refusal_has_the_agents_words(void **state)
{
	struct fixture *f = *state;
	struct lat_agent_run run = { .init = 77 };
	struct lat_agent_started out;
	char say[LAT_AGENT_SAY];

	say_frame(f, "{\"id\":1,\"ok\":false,\"error\":{\"text\":\"not you\",\"code\":\"EACCES\",\"exit\":5}}");
	assert_int_equal(lat_agent_start(f->link, &run, &out, say), -EACCES);
	assert_string_equal(say, "not you");
}

static void an_agent_that_will_not_talk_says_why(void **state)
{
	struct fixture *f = *state;
	struct lat_agent_run run = { .init = 77 };
	struct lat_agent_started out;
	char say[LAT_AGENT_SAY];

	say_frame(f, "{\"ok\":false,\"error\":{\"text\":\"the control socket is not for you\",\"code\":\"EACCES\"}}");
	assert_int_equal(lat_agent_start(f->link, &run, &out, say), -EPIPE);
	assert_string_equal(say, "the control socket is not for you");
	assert_string_equal(lat_agent_ended(f->link), say);
}

static void pins_wait_for_their_answer_and_events_come_meanwhile(void **state)
{
	struct fixture *f = *state;
	const char *names[] = { "a.example", "b.example" };
	struct lat_filter_pin pin = { .names = names, .name_count = 2 };
	char say[LAT_AGENT_SAY];
	json_t *frame, *pins;

	lat_addr_parse("192.0.2.7", &pin.addr);
	start(f);
	say_frame(f, "{\"id\":1,\"ok\":true,\"more\":true,\"result\":{\"lost\":1}}");
	say_frame(f, "{\"id\":2,\"ok\":true,\"result\":{}}");
	assert_int_equal(lat_agent_pin(f->link, &pin, 1, say), 0);
	assert_int_equal(f->lost, 1);
	frame = heard(f);
	pins = json_object_get(json_object_get(frame, "args"), "pins");
	assert_string_equal(json_string_value(json_object_get(json_array_get(pins, 0), "addr")), "192.0.2.7");
	assert_int_equal(json_array_size(json_object_get(json_array_get(pins, 0), "names")), 2);
	json_decref(frame);
	say_frame(f, "{\"id\":3,\"ok\":false,\"error\":{\"text\":\"too many\",\"code\":\"EAGAIN\"}}");
	assert_int_equal(lat_agent_pin(f->link, &pin, 1, say), -EAGAIN);
}

static void a_reload_tells_what_is_in_force(void **state)
{
	struct fixture *f = *state;
	struct lat_agent_reloaded out;
	char say[LAT_AGENT_SAY];

	start(f);
	say_frame(f, "{\"id\":2,\"ok\":true,\"result\":{\"generation\":4,\"digest\":\"def\",\"cut\":2,\"changed\":true}}");
	assert_int_equal(lat_agent_reload(f->link, &out, say), 0);
	assert_int_equal(out.generation, 4);
	assert_string_equal(out.digest, "def");
	assert_int_equal(out.cut, 2);
}

static void the_end_of_the_run_and_of_the_agent_are_told(void **state)
{
	struct fixture *f = *state;

	start(f);
	say_frame(f, "{\"id\":1,\"ok\":true,\"result\":{\"ended\":\"the agent ends\"}}");
	assert_int_equal(lat_agent_dispatch(f->link), -EPIPE);
	assert_string_equal(lat_agent_ended(f->link), "the agent ends");
}

static void a_cut_connection_is_an_end(void **state)
{
	struct fixture *f = *state;
	char say[LAT_AGENT_SAY];

	start(f);
	close(f->agent);
	f->agent = -1;
	assert_int_equal(lat_agent_pin(f->link, NULL, 0, say), -EPIPE);
	assert_int_equal(lat_agent_dispatch(f->link), -EPIPE);
	assert_non_null(lat_agent_ended(f->link));
}

static void frames_in_pieces_are_put_together(void **state)
{
	struct fixture *f = *state;
	const char *text = "{\"id\":1,\"ok\":true,\"more\":true,\"result\":{\"lost\":5}}";
	uint8_t head[4] = { 0, 0, 0, (uint8_t)strlen(text) };

	start(f);
	say_bytes(f, head, 2);
	assert_int_equal(lat_agent_dispatch(f->link), 0);
	say_bytes(f, head + 2, 2);
	say_bytes(f, text, 10);
	assert_int_equal(lat_agent_dispatch(f->link), 0);
	say_bytes(f, text + 10, strlen(text) - 10);
	assert_int_equal(lat_agent_dispatch(f->link), 0);
	assert_int_equal(f->lost, 5);
}

static void what_is_no_frame_ends_the_link(void **state)
{
	struct fixture *f = *state;
	static const char *const odd[] = { "[]", "nonsense", "{\"id\":1,\"more\":true,\"result\":{\"events\":\"zz\"}}",
		"{\"id\":1,\"more\":true,\"result\":{\"events\":7,\"lost\":-1}}", "{\"id\":1,\"more\":true}",
		"{\"id\":9,\"ok\":true,\"result\":1}", "{}" };

	for (size_t i = 0; i < sizeof(odd) / sizeof(odd[0]); i++) {
		void *one;

		set_up(&one);
		start(one);
		say_frame(one, odd[i]);
		lat_agent_dispatch(((struct fixture *)one)->link);
		assert_int_equal(((struct fixture *)one)->events, 0);
		tear_down(&one);
	}
	start(f);
	say_bytes(f, "\xff\xff\xff\xff", 4);
	assert_int_equal(lat_agent_dispatch(f->link), -EPIPE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_run_is_asked_for_and_its_events_come, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_refusal_has_the_agents_words, set_up, tear_down),
		cmocka_unit_test_setup_teardown(an_agent_that_will_not_talk_says_why, set_up, tear_down),
		cmocka_unit_test_setup_teardown(pins_wait_for_their_answer_and_events_come_meanwhile, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_reload_tells_what_is_in_force, set_up, tear_down),
		cmocka_unit_test_setup_teardown(the_end_of_the_run_and_of_the_agent_are_told, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_cut_connection_is_an_end, set_up, tear_down),
		cmocka_unit_test_setup_teardown(frames_in_pieces_are_put_together, set_up, tear_down),
		cmocka_unit_test_setup_teardown(what_is_no_frame_ends_the_link, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
