#include "policy/seat_table.h"

#include "gtest/gtest.h"

namespace tributary {
namespace {

using Factory = int (*)();

int MakeDense() { return 1; }
int MakeHgca() { return 2; }
int MakeToy() { return 3; }

SeatTable<Factory> Table() {
  return {
#define TRIBUTARY_POLICY(name, Name) {#name, &Make##Name},
#include "policy/policies.def"
  };
}

TEST(SeatTableTest, HoldsTheBuiltInPolicies) {
  const SeatTable<Factory> table = Table();
  ASSERT_NE(table.Find("dense"), nullptr);
  EXPECT_EQ((*table.Find("dense"))(), 1);
  ASSERT_NE(table.Find("hgca"), nullptr);
  EXPECT_EQ((*table.Find("hgca"))(), 2);
  EXPECT_EQ(table.Find("hgc"), nullptr);
  EXPECT_EQ(table.Find(""), nullptr);
  EXPECT_EQ(table.seats()[0].name, "dense");
}

TEST(SeatTableTest, TakesOnesFromOutside) {
  SeatTable<Factory> table = Table();
  table.Add("toy", &MakeToy);
  ASSERT_NE(table.Find("toy"), nullptr);
  EXPECT_EQ((*table.Find("toy"))(), 3);
  EXPECT_DEATH(table.Add("hgca", &MakeToy), "Find");
}

}  // namespace
}  // namespace tributary
