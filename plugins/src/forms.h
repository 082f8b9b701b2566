// Made by scripts/forms.py of the table in ropeexport/ops/forms.py; do not edit.
#pragma once

#include "form.h"

namespace ropeexport {

constexpr Form kForms[] = {
    {ROPEEXPORT_PLUGIN_NAME, false, false, false, 2, false},
    {ROPEEXPORT_PLUGIN_NAME "Single", false, false, false, 1, false},
    {ROPEEXPORT_PLUGIN_NAME "Half", false, true, false, 2, false},
    {ROPEEXPORT_PLUGIN_NAME "HalfSingle", false, true, false, 1, false},
    {ROPEEXPORT_PLUGIN_NAME "CosSin", true, false, false, 2, false},
    {ROPEEXPORT_PLUGIN_NAME "CosSinPartial", true, false, true, 2, false},
    {ROPEEXPORT_PLUGIN_NAME "CosSinSingle", true, false, false, 1, false},
    {ROPEEXPORT_PLUGIN_NAME "CosSinPartialSingle", true, false, true, 1, false},
    {ROPEEXPORT_PLUGIN_NAME "CosSinHalf", true, true, false, 2, false},
    {ROPEEXPORT_PLUGIN_NAME "CosSinHalfPartial", true, true, true, 2, false},
    {ROPEEXPORT_PLUGIN_NAME "CosSinHalfSingle", true, true, false, 1, false},
    {ROPEEXPORT_PLUGIN_NAME "CosSinHalfPartialSingle", true, true, true, 1, false},
    {ROPEEXPORT_NORM_PLUGIN_NAME, false, false, false, 2, true},
    {ROPEEXPORT_NORM_PLUGIN_NAME "Single", false, false, false, 1, true},
    {ROPEEXPORT_NORM_PLUGIN_NAME "CosSin", true, false, false, 2, true},
    {ROPEEXPORT_NORM_PLUGIN_NAME "CosSinPartial", true, false, true, 2, true},
    {ROPEEXPORT_NORM_PLUGIN_NAME "CosSinSingle", true, false, false, 1, true},
    {ROPEEXPORT_NORM_PLUGIN_NAME "CosSinPartialSingle", true, false, true, 1, true},
    {ROPEEXPORT_NORM_PLUGIN_NAME "CosSinHalf", true, true, false, 2, true},
    {ROPEEXPORT_NORM_PLUGIN_NAME "CosSinHalfPartial", true, true, true, 2, true},
    {ROPEEXPORT_NORM_PLUGIN_NAME "CosSinHalfSingle", true, true, false, 1, true},
    {ROPEEXPORT_NORM_PLUGIN_NAME "CosSinHalfPartialSingle", true, true, true, 1, true},
};
constexpr int kFormCount = sizeof(kForms) / sizeof(kForms[0]);

}  // namespace ropeexport
