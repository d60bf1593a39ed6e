// Asking a cluster once, for `run`, `generate` and `score`: from what the options name to what is printed.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/api/client.h"
#include "client/api/request_input.h"
#include "client/api/request_options.h"
#include "client/terminal/interrupt.h"
#include "client/text/text_codec.h"

namespace tributary {

// What is known before any cluster is asked or started.
struct PreparedRequest {
  RequestOptions options;
  RequestInput input;                // its text is in `tokens` already if `codec` is there
  std::unique_ptr<TextCodec> codec;  // none: the tokens are bytes or, if the model has other ones, ids go in and out
};

// Reads the input, and encodes its text if there is a tokenizer: that of options.tokenizer_dir, or of `model_dir`. A
// signal that comes meanwhile ends the process. Errors as of ReadRequestInput(), MakeTextCodec() and TextCodec.
absl::StatusOr<PreparedRequest> Prepare(const RequestOptions& options, const std::string& model_dir, Interrupt& stop);

// Asks, and prints the answer as it comes and what it took; UNAVAILABLE if standard output does not take it.
absl::Status GenerateAndPrint(Client& client, PreparedRequest& request, Interrupt& stop);
// The same for the likelihood of the input.
absl::Status ScoreAndPrint(Client& client, PreparedRequest& request, Interrupt& stop);

}  // namespace tributary
