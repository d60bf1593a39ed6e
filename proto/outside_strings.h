// Text in messages from outside is bounded in length and printable before anybody keeps, compares or prints it.
#pragma once

#include "absl/status/status.h"
#include "google/protobuf/message.h"

namespace tributary {

// Checks every string field of the message and of those inside it, by the field's name: ids, addresses and names have
// limits of their own (base/limits.h), other text has kMaxOutsideTextBytes. Of bytes fields, `address` (of a data
// plane) is bounded. INVALID_ARGUMENT with the field, the length and the limit, or with the place of a control
// character. Called by each server where a call enters; costs a microsecond or so, so not for messages of every step.
absl::Status CheckOutsideStrings(const google::protobuf::Message& message);

}  // namespace tributary
