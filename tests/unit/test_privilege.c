/* Capabilities are given up by every thread, whatever threads do meanwhile. */
#include "kernel/privilege.h"
#include <linux/capability.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

static atomic_bool stop;

static void *end_at_once(void *arg)
{
	return arg;
}

/* Threads that begin and end all the time: a signal may find one that is ending already. */
static void *churn(void *arg)
{
	while (!atomic_load(&stop)) {
		pthread_t t;

		if (pthread_create(&t, NULL, end_at_once, NULL) == 0)
			pthread_join(t, NULL);
	}
	return arg;
}

static void *tell(void *arg)
{
	while (!atomic_load(&stop))
		usleep(1000);
	lat_capabilities(arg);
	return NULL;
}

/* In a process of its own: what is given up is gone. 0, or the number of the step that failed. */
static int give_up_beside_threads(uint64_t keep)
{
	pthread_t churners[3], teller;
	uint64_t seen = ~0ull, own = ~0ull;
	int r = 0;

	if (pthread_create(&teller, NULL, tell, &seen) != 0)
		return 1;
	for (int i = 0; i < 3; i++)
		if (pthread_create(&churners[i], NULL, churn, NULL) != 0)
			return 1;
	for (int i = 0; i < 20 && r == 0; i++)
		r = lat_capabilities_keep(keep) < 0 ? 2 : 0;
	atomic_store(&stop, true);
	for (int i = 0; i < 3; i++)
		pthread_join(churners[i], NULL);
	pthread_join(teller, NULL);
	if (r == 0 && ((seen & ~keep) || lat_capabilities(&own) < 0 || (own & ~keep)))
		r = 3;
	return r;
}

static void every_thread_gives_up_though_others_end(void **state)
{
	pid_t pid = fork();
	int status = -1;

	(void)state;
	assert_true(pid >= 0);
	if (pid == 0) {
		alarm(60);
		_exit(give_up_beside_threads(1ull << CAP_NET_ADMIN));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void names_are_numbers(void **state)
{
	(void)state;
	assert_int_equal(lat_capability_number("net_admin"), CAP_NET_ADMIN);
	assert_int_equal(lat_capability_number("bpf"), CAP_BPF);
	assert_true(lat_capability_number("all") < 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_thread_gives_up_though_others_end),
		cmocka_unit_test(names_are_numbers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
