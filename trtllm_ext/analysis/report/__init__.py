"""Reports: tables, figures and arrays, written for people (HTML, PNG) and for programs (JSON, safetensors)."""

from trtllm_ext.analysis.report.report import Report
from trtllm_ext.analysis.report.writing import REPORT_DIRECTORY

__all__ = ["REPORT_DIRECTORY", "Report"]
