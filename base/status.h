// Operating errors travel as absl::Status; these macros hand them to the caller.
#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define TRIBUTARY_STATUS_CONCAT_INNER_(a, b) a##b
#define TRIBUTARY_STATUS_CONCAT_(a, b) TRIBUTARY_STATUS_CONCAT_INNER_(a, b)

#define TRIBUTARY_RETURN_IF_ERROR(expression)                 \
  do {                                                        \
    if (absl::Status status_ = (expression); !status_.ok()) { \
      return status_;                                         \
    }                                                         \
  } while (false)

#define TRIBUTARY_ASSIGN_OR_RETURN(declaration, expression) \
  TRIBUTARY_ASSIGN_OR_RETURN_IMPL_(TRIBUTARY_STATUS_CONCAT_(status_or_, __LINE__), declaration, expression)

#define TRIBUTARY_ASSIGN_OR_RETURN_IMPL_(status_or, declaration, expression) \
  auto status_or = (expression);                                             \
  if (!status_or.ok()) return std::move(status_or).status();                 \
  declaration = *std::move(status_or)
