/* What the community edition answers where the pro edition has code: the functions are there in both, with one header. */
#ifndef LAT_BASE_EDITION_H
#define LAT_BASE_EDITION_H

/* Returned negative like an errno, and beyond all of them. */
#define LAT_EPRO 402
#define LAT_EPRO_TEXT "Pro feature: this is the community edition; build with -DLATTICE_EDITION=pro"

#endif
