/* kernel/tun.h, in a network namespace of the test's own. */
#include "kernel/tun.h"
#include "kernel/link.h"
#include "kernel/netns.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

static int links_of(struct lat_links **links)
{
	return lat_links_open(-1, links);
}

/* Each case runs in the namespace and ends with 0, 77 (no TUN here), or the line that failed. */
#define CHECK(what)                                                                                \
	do {                                                                                       \
		if (!(what))                                                                       \
			return __LINE__ % 70 + 1;                                                  \
	} while (0)

static int inside(void *ctx)
{
	struct lat_tun_options o = { .name = "wf0" };
	struct lat_tun *tun = NULL, *other = NULL;
	struct lat_links *links;
	struct lat_link link;
	char packet[64] = { 0x45 };
	int r = lat_tun_open(&o, &tun);

	if (r == -ENOENT || r == -EPERM || r == -EACCES || r == -ENXIO)
		return 77;
	CHECK(r == 0 && links_of(&links) == 0);
	CHECK(lat_link_get(links, "wf0", &link) == 0 && link.index == lat_tun_index(tun));
	CHECK(strcmp(link.kind, "tun") == 0 && !link.up);
	CHECK(lat_tun_open(&o, &other) == -EEXIST && other == NULL);
	o.attach = true;
	CHECK(lat_tun_open(&o, &other) == -EBUSY);
	CHECK(lat_tun_read(tun, 0, packet, sizeof(packet)) == -EAGAIN);
	CHECK(lat_tun_write(tun, 0, packet, sizeof(packet)) == -EIO); /* down */
	lat_tun_close(tun);
	CHECK(lat_link_get(links, "wf0", &link) == -ENODEV);
	CHECK(lat_tun_open(&o, &other) == -ENODEV);

	o = (struct lat_tun_options){ .name = "stays", .persist = true, .queues = LAT_TUN_QUEUES };
	CHECK(lat_tun_open(&o, &tun) == 0 && lat_tun_queues(tun) == LAT_TUN_QUEUES);
	lat_tun_close(tun);
	CHECK(lat_link_get(links, "stays", &link) == 0);
	o.attach = true;
	o.persist = false;
	CHECK(lat_tun_open(&o, &tun) == 0);
	CHECK(lat_tun_persist(tun, false) == 0);
	CHECK(lat_link_delete(links, link.index) == 0); /* deleted under us */
	CHECK(lat_tun_read(tun, 0, packet, sizeof(packet)) == -EBADFD);
	lat_tun_close(tun);

	o = (struct lat_tun_options){ .name = "a%d" };
	CHECK(lat_tun_open(&o, &other) == -EINVAL);
	o = (struct lat_tun_options){ .name = "many", .queues = LAT_TUN_QUEUES + 1 };
	CHECK(lat_tun_open(&o, &other) == -EINVAL && other == NULL);
	lat_links_close(links);
	return 0;
}

static void a_device_lives_as_long_as_it_should(void **state)
{
	struct lat_netns *ns;
	int status = 0;
	pid_t pid;

	if (lat_netns_open(&ns) < 0)
		skip();
	pid = lat_netns_fork(ns, inside, NULL);
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	lat_netns_close(ns);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		skip();
	assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_device_lives_as_long_as_it_should),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
