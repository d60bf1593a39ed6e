#include "policy/seat_table.h"

#include <string_view>

#include "gtest/gtest.h"

namespace tributary {
namespace {

using Factory = std::string_view (*)();

std::string_view MakeToy() { return "Toy"; }

// Each policy's factory returns the name that its seat's function has.
SeatTable<Factory> Table() {
  return {
#define TRIBUTARY_POLICY(name, Name) {#name, +[]() -> std::string_view { return #Name; }},
#include "policy/policies.def"
  };
}

TEST(SeatTableTest, HoldsTheBuiltInPolicies) {
  const SeatTable<Factory> table = Table();
  ASSERT_NE(table.Find("dense"), nullptr);
  EXPECT_EQ((*table.Find("dense"))(), "Dense");
  ASSERT_NE(table.Find("hgca"), nullptr);
  EXPECT_EQ((*table.Find("hgca"))(), "Hgca");
  EXPECT_EQ(table.Find("hgc"), nullptr);
  EXPECT_EQ(table.Find(""), nullptr);
  EXPECT_EQ(table.seats()[0].name, "dense");
}

TEST(SeatTableTest, TakesOnesFromOutside) {
  SeatTable<Factory> table = Table();
  table.Add("toy", &MakeToy);
  ASSERT_NE(table.Find("toy"), nullptr);
  EXPECT_EQ((*table.Find("toy"))(), "Toy");
  EXPECT_DEATH(table.Add("hgca", &MakeToy), "Find");
}

}  // namespace
}  // namespace tributary
