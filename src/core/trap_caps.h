/* Probes of what the trap namespace is made of (sandbox/launcher): nf_tables, NFQUEUE, TPROXY. See kernel/caps.h. */
#ifndef LAT_CORE_TRAP_CAPS_H
#define LAT_CORE_TRAP_CAPS_H
#include "kernel/caps.h"

extern const struct lat_cap_test lat_trap_caps[];

#endif
