#include "tests/fuzz/frame_fuzz_entry.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/check.h"
#include "base/limits.h"
#include "kv_store/kv_shard.h"
#include "policy/fluxion/query_section.h"
#include "policy/hgca/spill_section.h"
#include "tests/testutil/sample_frames.h"
#include "wire/frame.h"

namespace tributary {
namespace {

constexpr size_t kExtentBytes = 128 << 10;  // a tile of any geometry
constexpr uint64_t kCapacityTokens = 300;

BlockPool& SharedPool() {
  static AlignedBuffer<std::byte> region(kExtentBytes * 256);
  static BlockPool pool(region.span(), kExtentBytes);
  return pool;
}

// A shard of the geometry that a spill claims, cut into stripes if it is cut by `num_stripes`.
ShardSpec SpecLike(const SpillBody& body, uint32_t num_stripes) {
  ShardSpec spec;
  spec.shard_id = ShardId(body.shard_id);
  spec.model = {body.num_kv_heads, body.num_kv_heads, body.head_dim};
  spec.num_layers = 4;
  spec.layer_begin = 1;
  spec.layer_end = 3;
  spec.kv_head_end = body.num_kv_heads;
  spec.stripe = {.origin = 3, .stripe_tokens = 16, .num_stripes = num_stripes};
  spec.capacity_tokens = kCapacityTokens;
  spec.k_dtype = static_cast<DType>(body.k_dtype);
  spec.v_dtype = static_cast<DType>(body.v_dtype);
  return spec;
}

KvExchangeRows RowsOf(const SpillView& spill) {
  return {spill.k(), spill.v(), static_cast<DType>(spill.body().k_dtype), static_cast<DType>(spill.body().v_dtype)};
}

// The row's values, bit for bit, are those of the spill's row.
void CheckRow(const float* stored, DType dtype, const std::byte* row, uint32_t head_dim) {
  std::vector<float> expected(head_dim);
  ConvertToF32(dtype, row, head_dim, expected.data());
  TRIBUTARY_CHECK(std::memcmp(stored, expected.data(), head_dim * sizeof(float)) == 0);
}

void CheckStored(const KvShard& shard, uint32_t layer, const SpillView& spill) {
  const SpillBody& body = spill.body();
  const KvExchangeRows rows = RowsOf(spill);
  const size_t k_row_bytes = body.head_dim * DTypeBytes(rows.k_dtype);
  const size_t v_row_bytes = body.head_dim * DTypeBytes(rows.v_dtype);
  const uint64_t begin = shard.spec().stripe.LocalIndex(body.token_begin);
  const uint64_t end = begin + body.num_tokens;
  if (shard.stored_tokens(layer) < end) return;  // beyond a gap
  for (uint32_t head = 0; head < body.num_kv_heads; ++head) {
    for (uint64_t pos = begin; pos < end;) {
      const KvRun run = shard.RunAt(layer, head, pos, end);
      std::vector<float> k(size_t{run.num_tokens()} * body.head_dim), v(k.size());
      UnpackKvToF32(shard.tile_layout(), run.tiles, run.token_begin, run.num_tokens(), k.data(), v.data());
      for (uint32_t i = 0; i < run.num_tokens(); ++i) {
        const size_t row = (pos - begin + i) * body.num_kv_heads + head;
        CheckRow(&k[i * body.head_dim], rows.k_dtype, &rows.k[row * k_row_bytes], body.head_dim);
        CheckRow(&v[i * body.head_dim], rows.v_dtype, &rows.v[row * v_row_bytes], body.head_dim);
      }
      pos += run.num_tokens();
    }
  }
}

// What policies read of their sections: of each as much as it allows.
void ReadSections(const SpillView& spill) {
  const SpillBody& body = spill.body();
  HgcaSpillSection section;
  if (!DecodeHgcaSpillSection(spill.policy(), body.num_tokens, body.num_kv_heads, &section)) return;
  TRIBUTARY_CHECK_EQ(section.resident_tokens == 0, spill.policy().empty());
  if (section.resident_tokens == 0) return;
  TRIBUTARY_CHECK_LE(section.resident_tokens, limits::kMaxContextTokens);
  TRIBUTARY_CHECK_EQ(section.maw.size(), size_t{body.num_tokens} * body.num_kv_heads * sizeof(float));
  TouchBytes(section.maw);
}

void ReadSections(const QueryView& query) {
  for (uint32_t i = 0; i < query.body().num_entries; ++i) {
    const QueryEntry entry = query.entry(i);
    for (uint32_t bits = 0; bits < 8; ++bits) {
      const FluxionQueryForm form{entry.num_q_heads, query.body().head_dim, (bits & 1) != 0, (bits & 2) != 0,
                                  (bits & 4) != 0};
      const std::span<const std::byte> bytes = query.policy(entry);
      FluxionQuerySection section;
      if (!DecodeFluxionQuerySection(bytes, form, &section)) continue;
      TRIBUTARY_CHECK(bytes.empty() || section.lse_ln.size() == entry.num_q_heads * sizeof(float));
      TRIBUTARY_CHECK_EQ(section.errors.empty(), section.error_number == 0);
      for (const auto part : {section.lse_ln, section.out, section.budgets, section.errors}) TouchBytes(part);
    }
  }
}

void FeedSpill(const FrameHeader& header, const SpillView& spill) {
  const SpillBody& body = spill.body();
  ReadSections(spill);
  for (uint32_t num_stripes : {1u, 3u}) {
    absl::StatusOr<std::unique_ptr<KvShard>> shard = KvShard::Open(SpecLike(body, num_stripes), &SharedPool());
    if (!shard.ok()) return;  // a geometry too large for this pool
    for (uint32_t layer : {uint32_t{header.layer}, 1u, 2u}) {
      const StoreResult result = (*shard)->Store(layer, body.token_begin, body.num_tokens, RowsOf(spill));
      TRIBUTARY_CHECK_LE((*shard)->stored_tokens(layer), kCapacityTokens);
      TRIBUTARY_CHECK(result.ok() || (*shard)->stored_tokens(layer) == 0);
      if (result.ok()) CheckStored(**shard, layer, spill);
    }
  }
  TRIBUTARY_CHECK_EQ(SharedPool().num_free(), SharedPool().num_extents());
}

// Reads the bytes as stores (begin, length) of one-byte-wide tokens, and compares with one flag per
// token.
void StoreProgram(std::span<const std::byte> program) {
  SpillBody body;
  body.num_kv_heads = body.head_dim = 1;
  body.k_dtype = body.v_dtype = static_cast<uint8_t>(DType::kF32);
  ShardSpec spec = SpecLike(body, 1);
  const std::unique_ptr<KvShard> shard = *KvShard::Open(spec, &SharedPool());
  std::vector<bool> stored(kCapacityTokens);
  const std::vector<std::byte> row(256 * sizeof(float));
  for (size_t i = 0; i + 1 < program.size(); i += 2) {
    const uint64_t begin = spec.stripe.origin + static_cast<uint64_t>(program[i]);
    const uint32_t tokens = static_cast<uint32_t>(program[i + 1]) % 60;
    const std::span<const std::byte> data = std::span(row).first(tokens * sizeof(float));
    if (!shard->Store(1, begin, tokens, {data, data, DType::kF32, DType::kF32}).ok()) {
      continue;
    }
    for (uint64_t pos = begin; pos < begin + tokens; ++pos) stored[pos - spec.stripe.origin] = true;
    const uint64_t prefix = static_cast<uint64_t>(std::find(stored.begin(), stored.end(), false) - stored.begin());
    TRIBUTARY_CHECK_EQ(shard->stored_tokens(1), prefix);
  }
}

}  // namespace

void FuzzFrame(std::span<const std::byte> bytes) {
  const size_t header_bytes = std::min(bytes.size(), kFrameHeaderBytes);
  const std::span<const std::byte> payload = bytes.subspan(header_bytes);
  FrameHeader header;
  const FrameError error = DecodeHeader(bytes.first(header_bytes), payload.size(), &header);
  TRIBUTARY_CHECK(FrameErrorName(error) != "unknown");
  if (header_bytes < kFrameHeaderBytes) {
    TRIBUTARY_CHECK(error == FrameError::kTruncated);
    return StoreProgram(bytes);
  }
  if (error == FrameError::kOk) {
    TRIBUTARY_CHECK_EQ(header.payload_bytes, payload.size());
    FrameHeader sealed = header;
    SealFrame(kSampleKey, sealed, payload);
    TRIBUTARY_CHECK(VerifyHeader(kSampleKey, sealed) && VerifyPayload(sealed, payload));
  }
  // A bad header must not keep the fuzzer from the payload's decoder.
  const FrameType type = static_cast<FrameType>(static_cast<uint8_t>(bytes[offsetof(FrameHeader, type)]) % 6 + 1);
  for (FrameType decoded_as : {static_cast<FrameType>(header.type), type}) {
    uint64_t digest = 0;
    TRIBUTARY_CHECK(FrameErrorName(DecodePayload(decoded_as, payload, &digest)) != "unknown");
  }
  QueryView query;
  if (QueryView::Decode(payload, &query) == FrameError::kOk) ReadSections(query);
  SpillView spill;
  if (SpillView::Decode(payload, &spill) == FrameError::kOk) FeedSpill(header, spill);
}

}  // namespace tributary
