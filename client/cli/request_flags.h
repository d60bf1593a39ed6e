// The flags of a request, of each command that makes one.
#pragma once

#include <string>

#include "client/api/request_options.h"

namespace CLI {
class App;
}

namespace tributary {

// `request` outlives `app`, and has the defaults. Of run and generate:
void AddRequestFlags(CLI::App& app, RequestOptions& request);
// Of generate besides: what is kept and continued.
void AddTurnFlags(CLI::App& app, RequestOptions& request);
// Of score.
void AddScoreFlags(CLI::App& app, RequestOptions& request);
// Of chat.
void AddChatFlags(CLI::App& app, RequestOptions& request, std::string& system);

}  // namespace tributary
