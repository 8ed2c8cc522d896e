"""The study: profiles, comparisons, pages. It uses the library as any user would."""

from xir_lib.data.tasks import load_task as load_task  # README's path of the last release
