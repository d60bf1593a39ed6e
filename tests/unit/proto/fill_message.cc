#include "tests/unit/proto/fill_message.h"

#include <string>

namespace tributary {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

// Sets or adds one value of the field.
class Filler {
 public:
  void Fill(Message& message) {
    const Reflection& reflection = *message.GetReflection();
    for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
      const FieldDescriptor* field = message.GetDescriptor()->field(i);
      const int count = field->is_repeated() ? 2 : 1;
      for (int element = 0; element < count; ++element) FillOne(message, reflection, field);
    }
  }

 private:
  void FillOne(Message& message, const Reflection& reflection, const FieldDescriptor* field) {
    const bool many = field->is_repeated();
    Message* m = &message;
    ++value_;
    switch (field->cpp_type()) {
      case FieldDescriptor::CPPTYPE_UINT32:
        return many ? reflection.AddUInt32(m, field, value_) : reflection.SetUInt32(m, field, value_);
      case FieldDescriptor::CPPTYPE_UINT64:
        return many ? reflection.AddUInt64(m, field, value_) : reflection.SetUInt64(m, field, value_);
      case FieldDescriptor::CPPTYPE_INT32:
        return many ? reflection.AddInt32(m, field, static_cast<int32_t>(value_))
                    : reflection.SetInt32(m, field, static_cast<int32_t>(value_));
      case FieldDescriptor::CPPTYPE_INT64:
        return many ? reflection.AddInt64(m, field, value_) : reflection.SetInt64(m, field, value_);
      case FieldDescriptor::CPPTYPE_DOUBLE:
        return many ? reflection.AddDouble(m, field, value_) : reflection.SetDouble(m, field, value_);
      case FieldDescriptor::CPPTYPE_FLOAT:
        return many ? reflection.AddFloat(m, field, static_cast<float>(value_))
                    : reflection.SetFloat(m, field, static_cast<float>(value_));
      case FieldDescriptor::CPPTYPE_BOOL:
        return many ? reflection.AddBool(m, field, true) : reflection.SetBool(m, field, true);
      case FieldDescriptor::CPPTYPE_STRING: {
        std::string text = "text-" + std::to_string(value_);
        return many ? reflection.AddString(m, field, std::move(text)) : reflection.SetString(m, field, std::move(text));
      }
      case FieldDescriptor::CPPTYPE_ENUM: {
        const auto* type = field->enum_type();
        const auto* last = type->value(type->value_count() - 1);
        return many ? reflection.AddEnum(m, field, last) : reflection.SetEnum(m, field, last);
      }
      case FieldDescriptor::CPPTYPE_MESSAGE:
        return Fill(many ? *reflection.AddMessage(m, field) : *reflection.MutableMessage(m, field));
    }
  }

  uint32_t value_ = 0;
};

}  // namespace

void FillMessage(Message& message) { Filler().Fill(message); }

}  // namespace tributary
