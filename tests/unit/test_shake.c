/* Seeds: what they are as text, what they draw, and whom they let go first. */
#include <errno.h>
#include <string.h>

#include "base/base.h"
#include "base/shake.h"
#include "tap.h"

static void
test_numbers(void)
{
    /* SplitMix64 of the state 0, as its reference gives them. */
    struct shake s = { 0 };
    CHECK(shake_next(&s, SHAKE_ORDER) == 0xe220a8397b1dcdaf);
    CHECK(shake_next(&s, SHAKE_ORDER) == 0x6e789e6aa1b965f4);
    CHECK(shake_next(&s, SHAKE_ORDER) == 0x06c45d188009454f);
    CHECK(shake_next(&s, SHAKE_HOPS) == 0xe220a8397b1dcdaf); /* each kind has its own */

    struct shake a, b, part;
    shake_init(&a, 17, SHAKE_USUAL);
    shake_init(&b, 17, SHAKE_USUAL);
    shake_init(&part, 17, 1U << SHAKE_HOPS);
    bool is_same = true, is_alone = true, is_low = true;
    unsigned seen = 0;
    for (int i = 0; i < 1000; i++) {
        shake_below(&a, SHAKE_TIMERS, 3);
        uint32_t x = shake_below(&a, SHAKE_HOPS, 10);
        is_same &= x == shake_below(&b, SHAKE_HOPS, 10);
        is_alone &= x == shake_below(&part, SHAKE_HOPS, 10);
        is_low &= x < 10;
        seen |= 1U << x;
    }
    ok(is_same, "a seed draws the same again, whatever other kinds have drawn");
    ok(is_alone, "a kind draws the same without the others");
    ok(is_low && seen == 0x3ff, "numbers below ten are those from 0 to 9");
    CHECK(shake_below(&part, SHAKE_IO, 10) == 0 && shake_below(&part, SHAKE_TASKS, 10) == 0);
}

static unsigned
chances(uint64_t seed, unsigned kinds, enum shake_kind kind)
{
    struct shake s;
    unsigned n = 0;
    shake_init(&s, seed, kinds);
    for (int i = 0; i < 4096; i++)
        n += shake_chance(&s, kind);
    return n;
}

static void
test_gentle(void)
{
    CHECK(chances(0, SHAKE_ALL, SHAKE_ORDER) == 0);
    CHECK(chances(128, SHAKE_ALL, SHAKE_ORDER) == 4096);
    CHECK(chances(128, SHAKE_USUAL, SHAKE_TASKS) == 0);
    unsigned one = chances(1, SHAKE_ALL, SHAKE_AWAITS), eight = chances(8, SHAKE_ALL, SHAKE_AWAITS),
             many = chances(200, SHAKE_ALL, SHAKE_AWAITS);
    ok(one > 150 && one < 370, "seed 1 suspends at one of sixteen: %u", one);
    ok(eight > 850 && eight < 1200, "seed 8 at four of sixteen: %u", eight);
    ok(many > 1850 && many < 2250, "seed 200 at every other: %u", many);
    CHECK(chances(200, SHAKE_ALL & ~(1U << SHAKE_AWAITS), SHAKE_AWAITS) == 0);
}

static void
test_text(void)
{
    static const struct {
        const char *text;
        uint64_t seed;
        unsigned kinds;
    } good[] = {
        { "0", 0, SHAKE_USUAL },
        { "17", 17, SHAKE_USUAL },
        { "18446744073709551615", UINT64_MAX, SHAKE_USUAL },
        { "17:order", 17, 1U << SHAKE_ORDER },
        { "17:order,drops", 17, 1U << SHAKE_ORDER | 1U << SHAKE_DROPS },
        { "3:order,awaits,hops,timers,io,drops,tasks", 3, SHAKE_ALL },
    };
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        struct shake s;
        char text[SHAKE_TEXT_SIZE];
        ok(shake_parse(&s, good[i].text, strlen(good[i].text)) == 0 && s.seed == good[i].seed &&
               s.kinds == good[i].kinds,
           "'%s' is a seed", good[i].text);
        shake_print(&s, text);
        ok(strcmp(text, good[i].text) == 0, "'%s' is printed as '%s'", good[i].text, text);
    }
    static const char *const bad[] = { "",          "x",         "-1",       "17:",
                                       "17:oder",   "17,order",  "17 ",      ":order",
                                       "17:order,", "17:,order", "17:Order", "18446744073709551616",
                                       "1.5" };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct shake s = { .seed = 5 };
        ok(shake_parse(&s, bad[i], strlen(bad[i])) == -EINVAL && s.seed == 5, "'%s' is none",
           bad[i]);
    }
}

enum { MANY = 60 };

/* Takes all n in the order of the seed; their indices go to order. */
static void
take_all(struct shake *s, const struct shake_item *given, size_t n, size_t *order)
{
    struct shake_item items[MANY];
    size_t index[MANY];
    memcpy(items, given, n * sizeof(*items));
    for (size_t i = 0; i < n; i++)
        index[i] = i;
    for (size_t left = n, k = 0; left > 0; left--) {
        size_t i = shake_pick(s, items, left);
        ASSERT(i < left);
        order[k++] = index[i];
        memmove(items + i, items + i + 1, (left - i - 1) * sizeof(*items));
        memmove(index + i, index + i + 1, (left - i - 1) * sizeof(*index));
    }
}

static void
test_pick(void)
{
    struct shake_item items[MANY];
    for (size_t i = 0; i < MANY; i++)
        items[i] = (struct shake_item){ .group = i % 7, .is_free = i % 5 != 0 };
    bool keeps = true, again = true;
    unsigned shuffled = 0, firsts = 0;
    for (uint64_t seed = 0; seed < 300; seed++) {
        static const unsigned kinds[] = { SHAKE_USUAL, SHAKE_ALL };
        struct shake a, b;
        size_t order[MANY], same[MANY];
        shake_init(&a, seed, kinds[seed % 2]);
        shake_init(&b, seed, kinds[seed % 2]);
        take_all(&a, items, MANY, order);
        take_all(&b, items, MANY, same);
        again &= memcmp(order, same, sizeof(order)) == 0;
        for (size_t i = 0; i < MANY; i++)
            for (size_t k = i + 1; k < MANY; k++)
                if (order[k] < order[i]) {
                    const struct shake_item *x = &items[order[k]], *y = &items[order[i]];
                    keeps &= x->group != y->group && (x->is_free || y->is_free);
                }
        bool is_plain = true;
        for (size_t i = 0; i < MANY; i++)
            is_plain &= order[i] == i;
        shuffled += !is_plain;
        firsts |= 1U << order[0] % 7;
        if (seed == 0)
            ok(is_plain, "seed 0 leaves the order as it is");
    }
    ok(keeps, "what is of one group keeps its order, and so does what is not free");
    ok(again, "a seed gives the same order again");
    ok(shuffled > 280, "seeds shuffle: %u of 300", shuffled);
    ok(firsts == 0x5f,
       "each group is first at times, but the fifth, which begins with one that is not free: %x",
       firsts);

    struct shake off, serial;
    size_t order[MANY];
    shake_init(&off, 200, SHAKE_USUAL & ~(1U << SHAKE_ORDER));
    take_all(&off, items, MANY, order);
    bool is_plain = true;
    for (size_t i = 0; i < MANY; i++)
        is_plain &= order[i] == i;
    ok(is_plain, "without its kind the order stays");

    shake_init(&serial, 0, SHAKE_USUAL);
    serial.is_serial = true;
    for (size_t i = 0; i < MANY; i++)
        items[i].is_free = true;
    take_all(&serial, items, MANY, order);
    bool is_serial = true;
    for (size_t i = 1; i < MANY; i++)
        is_serial &=
            items[order[i - 1]].group < items[order[i]].group ||
            (items[order[i - 1]].group == items[order[i]].group && order[i - 1] < order[i]);
    ok(is_serial, "where that is wished, groups go one after the other");
}

int
main(void)
{
    test_numbers();
    test_gentle();
    test_text();
    test_pick();
    return tap_done();
}
