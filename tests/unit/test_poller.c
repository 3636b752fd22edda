/* The poller: budget, deletion from callbacks, change of interest, and the one descriptor that stands for all. */
#include "core/poller.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>
#include <cmocka.h>

#define PIPES 5

struct end {
	struct lat_poll_item item; /* first: the callback gets it back as an end */
	struct fixture *fixture;
	int write_fd, ran;
	uint32_t last;
};

struct fixture {
	struct lat_poller *poller;
	struct end ends[PIPES];
	int total;
	void (*action)(struct end *end);
};

static void ready(struct lat_poll_item *item, uint32_t events)
{
	struct end *end = (struct end *)item;

	end->ran++;
	end->last = events;
	end->fixture->total++;
	if (end->fixture->action)
		end->fixture->action(end);
}

static int setup(void **state)
{
	static struct fixture f;

	memset(&f, 0, sizeof(f));
	assert_int_equal(lat_poller_new(&f.poller), 0);
	for (int i = 0; i < PIPES; i++) {
		int fds[2];

		assert_int_equal(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
		f.ends[i].item = (struct lat_poll_item){ .fd = fds[0], .ready = ready };
		f.ends[i].write_fd = fds[1];
		f.ends[i].fixture = &f;
		assert_int_equal(lat_poller_add(f.poller, &f.ends[i].item, EPOLLIN), 0);
	}
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	for (int i = 0; i < PIPES; i++) {
		close(f->ends[i].item.fd);
		if (f->ends[i].write_fd >= 0)
			close(f->ends[i].write_fd);
	}
	lat_poller_free(f->poller);
	return 0;
}

static void write_all(struct fixture *f)
{
	for (int i = 0; i < PIPES; i++)
		assert_int_equal(write(f->ends[i].write_fd, "x", 1), 1);
}

static bool readable(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, 0) == 1;
}

static void its_descriptor_is_readable_exactly_when_an_item_is(void **state)
{
	struct fixture *f = *state;
	char c;

	assert_false(readable(lat_poller_fd(f->poller)));
	assert_int_equal(lat_poller_dispatch(f->poller, 10, 0), 0);
	assert_int_equal(write(f->ends[2].write_fd, "x", 1), 1);
	assert_true(readable(lat_poller_fd(f->poller)));
	assert_int_equal(lat_poller_dispatch(f->poller, 10, 0), 1);
	assert_int_equal(f->ends[2].ran, 1);
	assert_true(readable(lat_poller_fd(f->poller))); /* level-triggered: not read yet */
	assert_int_equal(read(f->ends[2].item.fd, &c, 1), 1);
	assert_false(readable(lat_poller_fd(f->poller)));
	assert_true(fcntl(lat_poller_fd(f->poller), F_GETFD) & FD_CLOEXEC);
}

static void a_budget_bounds_the_callbacks(void **state)
{
	struct fixture *f = *state;

	write_all(f);
	assert_int_equal(lat_poller_dispatch(f->poller, 2, 0), 2);
	assert_int_equal(f->total, 2);
	while (f->total < 100)
		assert_in_range(lat_poller_dispatch(f->poller, 2, 0), 1, 2);
	for (int i = 0; i < PIPES; i++)
		assert_true(f->ends[i].ran > 5); /* nobody starves */
}

static void delete_all(struct end *end)
{
	for (int i = 0; i < PIPES; i++)
		lat_poller_del(end->fixture->poller, &end->fixture->ends[i].item);
}

static void deleted_items_get_no_callback_from_fetched_events(void **state)
{
	struct fixture *f = *state;

	write_all(f);
	f->action = delete_all;
	assert_int_equal(lat_poller_dispatch(f->poller, 10, 0), 1);
	assert_int_equal(f->total, 1);
	assert_int_equal(lat_poller_dispatch(f->poller, 10, 0), 0);
}

static void replace_first(struct end *end)
{
	struct fixture *f = end->fixture;

	f->action = NULL;
	lat_poller_del(f->poller, &end->item);
	assert_int_equal(lat_poller_add(f->poller, &end->item, EPOLLIN), 0);
}

static void an_item_can_be_added_again_from_its_callback(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(write(f->ends[0].write_fd, "x", 1), 1);
	f->action = replace_first;
	assert_int_equal(lat_poller_dispatch(f->poller, 10, 0), 1);
	assert_int_equal(lat_poller_dispatch(f->poller, 10, 0), 1);
	assert_int_equal(f->ends[0].ran, 2);
}

static void interest_changes_and_hang_up_is_told(void **state)
{
	struct fixture *f = *state;
	struct end *e = &f->ends[0];

	assert_int_equal(write(e->write_fd, "x", 1), 1);
	assert_int_equal(lat_poller_change(f->poller, &e->item, 0), 0);
	assert_int_equal(lat_poller_dispatch(f->poller, 10, 0), 0);
	assert_int_equal(lat_poller_change(f->poller, &e->item, EPOLLIN), 0);
	assert_int_equal(lat_poller_change(f->poller, &e->item, EPOLLIN), 0);
	assert_int_equal(lat_poller_dispatch(f->poller, 10, 0), 1);
	assert_int_equal(e->last, EPOLLIN);
	close(e->write_fd);
	e->write_fd = -1;
	assert_int_equal(lat_poller_dispatch(f->poller, 10, 0), 1);
	assert_int_equal(e->last, EPOLLIN | EPOLLHUP);
}

static void edge_triggered_items_fire_once_for_each_change(void **state)
{
	struct fixture *f = *state;
	struct end *e = &f->ends[1];

	assert_int_equal(lat_poller_change(f->poller, &e->item, EPOLLIN | EPOLLET), 0);
	assert_int_equal(write(e->write_fd, "x", 1), 1);
	assert_int_equal(lat_poller_dispatch(f->poller, 10, 0), 1);
	assert_int_equal(lat_poller_dispatch(f->poller, 10, 0), 0);
	assert_int_equal(write(e->write_fd, "x", 1), 1);
	assert_int_equal(lat_poller_dispatch(f->poller, 10, 0), 1);
}

static void mistakes_are_errors_and_deleting_is_always_safe(void **state)
{
	struct fixture *f = *state;
	struct lat_poll_item never = { .fd = -1, .ready = ready };

	assert_int_equal(lat_poller_add(f->poller, &f->ends[0].item, EPOLLIN), -EEXIST);
	assert_int_equal(lat_poller_add(f->poller, &never, EPOLLIN), -EBADF);
	lat_poller_del(f->poller, &never);
	lat_poller_del(f->poller, &f->ends[0].item);
	lat_poller_del(f->poller, &f->ends[0].item);
	assert_int_equal(lat_poller_change(f->poller, &f->ends[0].item, EPOLLOUT), -ENOENT);
	assert_int_equal(lat_poller_dispatch(f->poller, 0, 0), -EINVAL);
	lat_poller_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(its_descriptor_is_readable_exactly_when_an_item_is, setup, teardown),
		cmocka_unit_test_setup_teardown(a_budget_bounds_the_callbacks, setup, teardown),
		cmocka_unit_test_setup_teardown(deleted_items_get_no_callback_from_fetched_events, setup, teardown),
		cmocka_unit_test_setup_teardown(an_item_can_be_added_again_from_its_callback, setup, teardown),
		cmocka_unit_test_setup_teardown(interest_changes_and_hang_up_is_told, setup, teardown),
		cmocka_unit_test_setup_teardown(edge_triggered_items_fire_once_for_each_change, setup, teardown),
		cmocka_unit_test_setup_teardown(mistakes_are_errors_and_deleting_is_always_safe, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
