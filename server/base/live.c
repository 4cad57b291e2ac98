/* live.c: how many of each thing are alive in this process. */
#include "live.h"

struct live live;
