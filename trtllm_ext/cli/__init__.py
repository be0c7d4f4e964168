"""The command `trtllm-ext`: one file a command, each parses, calls one public function, prints."""
