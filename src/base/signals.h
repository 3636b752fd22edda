/* Signals that this program sends to its own threads. A thread that blocks all others leaves this one open. */
#ifndef LAT_BASE_SIGNALS_H
#define LAT_BASE_SIGNALS_H
#include <signal.h>

#define LAT_SIGNAL_PRIVILEGE (SIGRTMIN + 6) /* give up capabilities: kernel/privilege.c */

#endif
