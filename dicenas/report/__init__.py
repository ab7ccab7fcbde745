"""What a search leaves for readers: the HTML report, drawings of architectures, tables in the terminal."""

from dicenas.report.drawing import architecture_svg, draw_architecture
from dicenas.report.page import write_report
from dicenas.report.terminal import print_final, print_front, print_table

__all__ = ["architecture_svg", "draw_architecture", "print_final", "print_front", "print_table", "write_report"]
