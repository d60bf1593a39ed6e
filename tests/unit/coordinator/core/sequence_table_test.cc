#include "coordinator/core/sequence_table.h"

#include "gtest/gtest.h"

namespace tributary {
namespace {

SequenceEntry Named(uint64_t id, const std::string& request_id) {
  SequenceEntry sequence;
  sequence.id = SequenceId(id);
  sequence.request_id = request_id;
  sequence.client = CallId(id + 100);
  return sequence;
}

TEST(SequenceTableTest, IsFoundByAllItsNames) {
  SequenceTable table;
  SequenceEntry* added = table.Add(Named(1, "a"));
  table.Add(Named(2, "b"));
  EXPECT_EQ(table.Find(SequenceId(1)), added);
  EXPECT_EQ(table.FindByRequest("a"), added);
  EXPECT_EQ(table.FindByClient(CallId(101)), added);
  EXPECT_EQ(table.CountIf(SequencePhase::kQueued), 2u);
  table.Erase(SequenceId(1));
  EXPECT_EQ(table.Find(SequenceId(1)), nullptr);
  EXPECT_EQ(table.FindByRequest("a"), nullptr);
  EXPECT_EQ(table.FindByClient(CallId(101)), nullptr);
  EXPECT_EQ(table.size(), 1u);
}

TEST(SequenceTableTest, OrderIsThatOfArrivalWhateverTheIds) {
  SequenceTable table;
  for (const uint64_t id : {900u, 3u, 70u}) table.Add(Named(id, std::to_string(id)));
  table.Erase(SequenceId(3));
  table.Add(Named(1, "1"));
  EXPECT_EQ(table.Ids(), (std::vector<SequenceId>{SequenceId(900), SequenceId(70), SequenceId(1)}));
  std::vector<SequenceId> seen;
  table.ForEach([&](const SequenceEntry& sequence) { seen.push_back(sequence.id); });
  EXPECT_EQ(seen, table.Ids());
}

TEST(SequenceTableTest, ASequenceIsFoundOnItsWorkerOnly) {
  SequenceTable table;
  SequenceEntry* added = table.Add(Named(1, "a"));
  EXPECT_EQ(table.FindOn(StreamId(5), SequenceId(1)), nullptr);
  added->worker = StreamId(5);
  EXPECT_EQ(table.FindOn(StreamId(5), SequenceId(1)), added);
  EXPECT_EQ(table.FindOn(StreamId(6), SequenceId(1)), nullptr);
}

TEST(SequenceTableTest, ANameIsFreeOnceItsClientWasAnswered) {
  SequenceTable table;
  SequenceEntry* first = table.Add(Named(1, "a"));
  table.DetachClient(*first);
  EXPECT_EQ(table.FindByRequest("a"), nullptr);
  SequenceEntry* second = table.Add(Named(2, "a"));
  table.Erase(SequenceId(1));  // must not take the name from its new owner
  EXPECT_EQ(table.FindByRequest("a"), second);
}

}  // namespace
}  // namespace tributary
