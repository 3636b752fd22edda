/* The probe of preload mode. See kernel/caps.h. */
#ifndef LAT_CORE_PRELOAD_CAPS_H
#define LAT_CORE_PRELOAD_CAPS_H
#include "kernel/caps.h"

extern const struct lat_cap_test lat_preload_caps[];

#endif
